"""Caches that are lent: whole again for the next session, and no more of them than were out at one time."""

from __future__ import annotations

import torch

from ltd.engine.kv_cache import KVCache
from ltd.engine.pool import CachePool


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
