"""Caches that sessions borrow, so that their memory is used again."""

from __future__ import annotations

import threading
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
        self._lock = threading.Lock()

    def take(self, batch: int, capacity: int) -> KVCache:
        """An empty cache of B sequences of at least so many rows, which nobody else has until it is given back."""
        with self._lock:
            fitting = next((cache for cache in self._free if cache.fits(batch, capacity)), None)
            if fitting is not None:
                self._free.remove(fitting)
            elif self._free:
                self._free.pop(0)  # let an old one go before there is a new one
        cache = self._make(batch, capacity) if fitting is None else fitting
        cache.clear()
        return cache

    def give_back(self, cache: KVCache) -> None:
        """The next session may have it."""
        with self._lock:
            self._free.append(cache)
