"""What is lent: caches, no more of them than were out at one time, and what is kept because it is dear to make."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from ltd.engine.kv_cache import KVCache
from ltd.engine.pool import MOST_KEPT, CachePool, Shelf, power_of_two


def pool_and_made() -> tuple[CachePool, list[tuple[int, int]]]:
    made: list[tuple[int, int]] = []

    def make(batch: int, capacity: int) -> KVCache:
        made.append((batch, capacity))
        return KVCache(1, batch, 1, capacity, 4, torch.float32, torch.device("cpu"))

    return CachePool(make), made


def test_a_batch_that_ended_unevenly_is_whole_again() -> None:
    pool, made = pool_and_made()
    for _ in range(3):
        cache = pool.take(4, 300)
        assert cache.batch == 4 and cache.host_lengths == [0] * 4 and cache.lengths.tolist() == [0] * 4
        cache.advance([5, 6, 7, 8])
        cache.keep([1, 3])
        assert cache.batch == 2 and cache.host_lengths == [6, 8]
        pool.give_back(cache)
    assert made == [(4, 300)]


def test_who_holds_a_cache_holds_it_alone() -> None:
    pool, made = pool_and_made()
    first, second = pool.take(1, 100), pool.take(1, 100)
    assert first is not second and len(made) == 2
    pool.give_back(first)
    assert pool.take(1, 50) is first  # a smaller one fits into it
    pool.give_back(second)
    assert pool.take(2, 100) is not second and made[-1] == (2, 100)
    assert pool.take(1, 100) is not second  # it made room


@dataclass(eq=False)
class Dear:
    """Something for so many rows."""

    capacity: int
    is_reusable: bool = True
    is_closed: bool = False

    def restart(self) -> None:
        assert not self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_what_a_few_kinds_need_in_turn_is_made_once() -> None:
    shelf: Shelf[Dear] = Shelf()
    made: list[Dear] = []

    def make() -> Dear:
        made.append(Dear(64))
        return made[-1]

    for kind in [*range(MOST_KEPT)] * 3:
        shelf.give_back(kind, shelf.take(kind, 50, make))
    assert len(made) == MOST_KEPT == 6 and not any(each.is_closed for each in made)
    shelf.give_back("one more", Dear(64))
    assert [each.is_closed for each in made] == [True] + [False] * (MOST_KEPT - 1)


def test_what_is_emptied_is_not_given_back() -> None:
    pool, made = pool_and_made()
    shelf: Shelf[Dear] = Shelf()
    assert not pool.clear() and not shelf.clear()
    pool.give_back(pool.take(1, 100))
    shelf.give_back("kind", Dear(64))
    assert pool.clear() and shelf.clear() and not pool.clear() and not shelf.clear()
    pool.take(1, 100)
    assert len(made) == 2 and shelf.take("kind", 10, lambda: Dear(10)).capacity == 10


@pytest.mark.parametrize(("count", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_rooms_are_powers_of_two(count: int, power: int) -> None:
    assert power_of_two(count) == power
