"""What records the parts of a cycle: its bookkeeping, and what becomes of a part that cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltd.engine import captures
from ltd.engine.captures import CudaGraphs, Plain, captures_for, rounded_up

GPU = torch.device("cuda", 0)


class FakeGraph:
    """Remembers what ran while it was captured, and runs it again."""

    def __init__(self) -> None:
        self.function: Callable[[], Any] = lambda: None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class FakeCuda:
    """So much of `torch.cuda` as capturing needs; every capture takes 5 bytes."""

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.reserved, self.fails = 0, False

    def graph_pool_handle(self) -> object:
        return object()

    def memory_reserved(self, device: torch.device) -> int:
        return self.reserved

    def Stream(self, device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: None)

    current_stream = Stream
    CUDAGraph = FakeGraph

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: FakeGraph, pool: object) -> Iterator[None]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.pools.append(pool)
        self.reserved += 5
        yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(captures, "torch", SimpleNamespace(cuda=fake))
    return fake


def test_graphs_share_a_pool_and_say_what_they_cost(cuda: FakeCuda) -> None:
    graphs, calls = CudaGraphs(GPU), []

    def part() -> int:
        calls.append(1)
        return len(calls)

    for size in (24, 8):
        graphs.record(("verify", size), part)
    assert len(set(cuda.pools)) == 1 and graphs.report.bytes == 10
    assert graphs.report.graphs == 2 and graphs.report.seconds > 0 and graphs.report.failure is None
    called = len(calls)
    result = graphs.run(("verify", 24), part)
    assert len(calls) == called and result == called // 2  # what the first capture returned
    assert graphs.run(("verify", 16), part) == called + 1  # not recorded, so it is called
    graphs.forget()
    assert graphs.run(("verify", 24), part) == called + 2


def test_what_cannot_be_captured_is_called_and_said_once(cuda: FakeCuda) -> None:
    graphs = CudaGraphs(GPU)
    graphs.record("before", lambda: 1)
    cuda.fails = True
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*not permitted when stream is capturing") as said:
        assert graphs.record("part", lambda: 2) == 2
    assert graphs.record("other", lambda: 3) == 3  # a second warning would be an error
    assert len(said) == 1
    assert not graphs.records and graphs.report.graphs == 0
    assert graphs.report.failure == "operation not permitted when stream is capturing"
    assert graphs.run("before", lambda: 4) == 4


def test_only_a_gpu_records() -> None:
    plain = captures_for(torch.device("cpu"))
    assert isinstance(plain, Plain) and not plain.records
    assert plain.record("part", lambda: 5) == 5 and plain.run("part", lambda: 6) == 6
    assert isinstance(captures_for(GPU), CudaGraphs)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 4), (4, 4), (5, 8), (8, 8), (9, 9)])
def test_counts_are_rounded_up(count: int, expected: int) -> None:
    assert rounded_up(count, (0, 4, 8)) == expected
