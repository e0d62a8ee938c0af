"""The engine's bits on a machine whose threads come and go: whoever computes what, the result is that of one thread."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from engine_models import DTYPES, family_engine, family_model, new_cache
from small_models import VOCABULARY

from ltd.engine.forward import TreeBlock

TASKS = Path("/proc/self/task")
SIZES = (1, 2, 8, 9, 40)
ROUNDS = 6

pytestmark = pytest.mark.skipif(not TASKS.is_dir(), reason="needs Linux")


@contextmanager
def starving(seed: int) -> Iterator[None]:
    """Time and again some threads of this process get no time but what nobody wants, all on one processor."""
    is_over, order = threading.Event(), random.Random(seed)
    main, processors = threading.get_native_id(), os.sched_getaffinity(0)
    changed: set[int] = set()

    def starve() -> None:
        own = threading.get_native_id()
        while not is_over.wait(0.002):
            for task in map(int, os.listdir(TASKS)):
                if task not in (own, main) and not is_over.is_set():
                    changed.add(task)
                    policy = order.choice((os.SCHED_IDLE, os.SCHED_OTHER))
                    try:
                        os.sched_setscheduler(task, policy, os.sched_param(0))
                        os.sched_setaffinity(task, {min(processors)} if order.random() < 0.5 else processors)
                    except ProcessLookupError:  # it has ended meanwhile
                        changed.discard(task)

    def spin() -> None:  # without the interpreter's lock, as another program would
        while not is_over.is_set():
            torch.ones(1 << 16).sum()

    helpers = [threading.Thread(target=starve), threading.Thread(target=spin)]
    for helper in helpers:
        helper.start()
    try:
        yield
    finally:
        is_over.set()
        for helper in helpers:
            helper.join()
        for task in changed:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(task, processors)


def forwards(family: str, dtype: torch.dtype, threads: int) -> list[torch.Tensor]:
    """Logits, features, keys and values of forwards of all sizes, one after the other."""
    engine, cache = family_engine(family, dtype), new_cache(family_model(family, dtype), 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for size in SIZES:
            tokens = torch.randint(3, VOCABULARY, (1, size), generator=torch.Generator().manual_seed(size))
            positions = cache.lengths.long()[:, None] + torch.arange(size)
            verified = engine(tokens, TreeBlock(cache.lengths, positions, None), cache, 0, (0, 3))
            assert verified.features is not None
            cache.advance([size])
            rows = int(cache.lengths[0])
            found += [verified.logits, verified.features, cache.keys[..., :rows, :].clone()]
            found.append(cache.values[..., :rows, :].clone())
        return found
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [2, 3, 8])
@torch.inference_mode()
def test_starved_threads_change_no_bit(dtype: torch.dtype, threads: int) -> None:
    expected = forwards("llama", dtype, 1)
    with starving(threads):
        for _ in range(ROUNDS):
            for one, other in zip(expected, forwards("llama", dtype, threads), strict=True):
                assert torch.equal(one, other)
