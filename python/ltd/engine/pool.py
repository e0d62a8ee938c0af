"""Caches that sessions borrow, so that their memory is used again."""

from __future__ import annotations

from collections.abc import Callable

from ltd.engine.kv_cache import KVCache


class CachePool:
    """Lends empty caches; any thread may ask. It never holds more than were lent at one time.

    Args:
        make: makes a cache for so many sequences of so many rows.
    """

    def __init__(self, make: Callable[[int, int], KVCache]) -> None:
        self._make = make
        self._free: list[KVCache] = []

    def take(self, batch: int, capacity: int) -> KVCache:
        """An empty cache of B sequences of at least so many rows, which nobody else has until it is given back."""
        cache = self._take_fitting(batch, capacity) or self._make(batch, capacity)
        cache.clear()
        return cache

    def give_back(self, cache: KVCache) -> None:
        """The next session may have it."""
        self._free.append(cache)

    def _take_fitting(self, batch: int, capacity: int) -> KVCache | None:
        """The free cache that fits; those that are met before and do not are let go, so that memory is not hoarded."""
        while True:
            try:
                cache = self._free.pop()  # one step, so no two threads get the same
            except IndexError:
                return None
            if cache.fits(batch, capacity):
                return cache
