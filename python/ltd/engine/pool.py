"""What sessions and requests borrow, so that its memory is used again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from ltd.engine.kv_cache import KVCache


def power_of_two(count: int) -> int:
    """The smallest power of two not below a count >= 0: room that is seldom made anew as what is in it grows."""
    return 1 << max(count - 1, 0).bit_length()


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

    def clear(self) -> bool:
        """Lets all free ones go; whether there was any."""
        return emptied(self._free)

    def __deepcopy__(self, memo: dict[int, object]) -> CachePool:
        """One that has nothing yet, and makes caches as the copy of what makes them here."""
        return CachePool(copy.deepcopy(self._make, memo))

    def _take_fitting(self, batch: int, capacity: int) -> KVCache | None:
        """The free cache that fits; those that are met before and do not are let go, so that memory is not hoarded."""
        while True:
            try:
                cache = self._free.pop()  # one step, so no two threads get the same
            except IndexError:
                return None
            if cache.fits(batch, capacity):
                return cache


def emptied(things: list[Any]) -> bool:
    """Empties a list, out of which other threads may take something meanwhile; whether there was anything."""
    found = bool(things)
    things.clear()
    return found


class Reusable(Protocol):
    """Something that is dear to make, for sequences of so many rows at most."""

    @property
    def capacity(self) -> int: ...

    @property
    def is_reusable(self) -> bool: ...

    def restart(self) -> None:
        """Makes it as if it were new."""

    def close(self) -> None:
        """Lets go what it holds."""


Thing = TypeVar("Thing", bound=Reusable)
MOST_KEPT = 6  # so that a few policies in turn find theirs again; not more, as each may hold much memory


class Shelf(Generic[Thing]):
    """Keeps what nobody uses at the time for the next who needs something of its kind; any thread may ask."""

    def __init__(self) -> None:
        self._free: list[tuple[Hashable, Thing]] = []

    def take(self, kind: Hashable, capacity: int, make: Callable[[], Thing]) -> Thing:
        """One of this kind for so many rows, or else a new one. One that is too small goes: its heir is here."""
        for entry in [entry for entry in self._free if entry[0] == kind]:
            try:
                self._free.remove(entry)
            except ValueError:
                continue  # another thread has it
            if entry[1].capacity >= capacity:
                entry[1].restart()
                return entry[1]
            entry[1].close()
        return make()

    def give_back(self, kind: Hashable, thing: Thing) -> None:
        """Keeps it, if it can be used again; of too many, the one that has lain longest goes."""
        if not thing.is_reusable:
            thing.close()
            return
        self._free.append((kind, thing))
        while len(self._free) > MOST_KEPT:
            self._free.pop(0)[1].close()

    def clear(self) -> bool:
        """Lets all go, what they have borrowed too, which nobody is given back; whether there was any."""
        return emptied(self._free)

    def __deepcopy__(self, memo: dict[int, object]) -> Shelf[Thing]:
        """An empty one: what was recorded over one model's memory is of no use to its copy."""
        return Shelf()
