"""What records the parts of a cycle: its bookkeeping, and what becomes of a part that cannot be recorded."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import small_config
from transformers import AutoModelForCausalLM

from ltd.engine import captures, events
from ltd.engine.captures import MOST_STREAMS, CaptureStreams, CudaGraphs, Plain, captures_for, rounded_up, with_memory
from ltd.engine.events import DeviceEvent
from ltd.target.target import Target

GPU = torch.device("cuda", 1)  # not the thread's current one
CURRENT = torch.device("cuda", 0)


class FakeStream:
    """A stream of a device.

    Attributes:
        workspace: a library's; another number when it was freed. graphs: that were captured here and live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.workspace, self.graphs = device, 0, 0

    def wait_stream(self, other: object) -> None: ...


class FakeGraph:
    """Works with the workspace that its stream had when it was captured, and frees what it has when it goes."""

    stream: FakeStream | None = None

    def capture_begin(self, stream: FakeStream) -> None:
        self.stream, self.workspace = stream, stream.workspace
        stream.graphs += 1

    def replay(self) -> None:
        assert self.stream is not None and self.stream.workspace == self.workspace, "its workspace was freed"

    def __del__(self) -> None:
        if self.stream is not None:
            self.stream.graphs -= 1
            self.stream.workspace += 1


class FakeEvent:
    """Remembers on which stream it was recorded."""

    stream: FakeStream | None = None

    def __init__(self, enable_timing: bool) -> None:
        self.timed = enable_timing

    def record(self, stream: FakeStream) -> None:
        self.stream = stream


class FakeCuda:
    """So much of `torch.cuda` as capturing needs; every capture takes 5 bytes, every warm-up's stream 7 that stay.

    What nobody needs any more, 100 bytes at first, is reserved until the cache is emptied. A failing capture leaves the
    thread on its stream, as one does whose end fails.
    """

    CUDAGraph, Event = FakeGraph, FakeEvent

    def __init__(self) -> None:
        self.pools: list[Any] = []
        self.modes: list[str] = []
        self.captured_on: list[FakeStream] = []
        self.pool = [FakeStream(GPU) for _ in range(MOST_STREAMS)]
        self.streams: list[FakeStream] = []  # as they were given out
        self.warmed: list[FakeStream] = []
        self.cached, self.kept, self.fails = 100, 0, False
        self.errors: list[RuntimeError] = []  # of the next captures, in order
        self.now, self.on_device = CURRENT, {index: FakeStream(index) for index in (GPU, CURRENT)}
        self.waited_for: list[torch.device] = []

    def graph_pool_handle(self) -> object:
        return object()

    def memory_reserved(self, device: torch.device) -> int:
        assert device == GPU
        return self.cached + self.kept

    def empty_cache(self) -> None:
        self.cached = 0

    def synchronize(self, device: torch.device) -> None:
        self.waited_for.append(device)

    def Stream(self, device: torch.device) -> FakeStream:
        assert device == GPU
        self.streams.append(self.pool[len(self.streams) % MOST_STREAMS])
        return self.streams[-1]

    def current_stream(self, device: torch.device) -> FakeStream:
        return self.on_device[device]

    def set_stream(self, stream: FakeStream) -> None:
        self.on_device[stream.device] = stream

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.now = self.now, device
        yield
        self.now = before

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        if stream not in self.warmed:
            self.warmed.append(stream)
            self.kept += 7
        yield

    @contextmanager
    def graph(self, graph: FakeGraph, pool: object, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert stream.device == self.now  # else the graph would be of another device, and empty
        graph.capture_begin(stream)
        if self.fails:
            self.set_stream(stream)
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        if self.errors:
            self.set_stream(stream)
            raise self.errors.pop(0)
        self.empty_cache()
        self.pools.append(pool)
        self.modes.append(capture_error_mode)
        self.captured_on.append(stream)
        self.kept += 5
        yield


class WatchedStreams(CaptureStreams):
    """Counts the graphs that are left on a stream when it is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []

    def give_back(self, stream: Any) -> None:
        self.left.append(stream.graphs)
        super().give_back(stream)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(captures, "STREAMS", WatchedStreams())
    for module in (captures, events):
        monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=fake, OutOfMemoryError=torch.OutOfMemoryError))
    return fake


def test_graphs_share_a_pool_and_say_what_they_cost(cuda: FakeCuda) -> None:
    graphs, calls = CudaGraphs(GPU), []

    def part() -> int:
        calls.append(1)
        return len(calls)

    for size in (24, 8):
        graphs.record(("verify", size), part)
    assert len(set(cuda.pools)) == 1 and graphs.report.bytes == 10
    assert len(cuda.streams) == 1 and cuda.captured_on == cuda.streams * 2  # each keeps libraries' memory
    assert set(cuda.modes) == {"thread_local"} and cuda.now == CURRENT
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
    stream = cuda.current_stream(GPU)
    cuda.fails = True
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*not permitted when stream is capturing") as said:
        assert graphs.record("part", lambda: 2) == 2
    assert graphs.record("other", lambda: 3) == 3  # a second warning would be an error
    assert len(said) == 1
    assert cuda.current_stream(GPU) is stream and cuda.waited_for[-1] == GPU and cuda.now == CURRENT
    assert not graphs.records and graphs.report.graphs == graphs.report.bytes == 0
    assert graphs.report.failure == "operation not permitted when stream is capturing"
    assert graphs.run("before", lambda: 4) == 4


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")


def ended_badly() -> RuntimeError:
    """What comes of ending a capture in which memory was lacking."""
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = full()
    return error


@pytest.mark.parametrize("error", [full, ended_badly])
def test_what_lacks_memory_is_captured_when_some_was_spared(cuda: FakeCuda, error: Callable[[], RuntimeError]) -> None:
    spared: list[int] = []

    def spare() -> bool:
        spared.append(1)
        return True

    graphs = CudaGraphs(GPU, spare)
    graphs.record("before", lambda: 1)
    stream = cuda.current_stream(GPU)
    cuda.errors = [error()]
    assert graphs.record("part", lambda: 2) == 2
    assert spared == [1] and graphs.report.failure is None and graphs.report.graphs == 2
    assert graphs.run("part", lambda: 3) == 2 and graphs.run("before", lambda: 3) == 1
    assert cuda.current_stream(GPU) is stream
    graphs.forget()
    assert cuda.captured_on[0].graphs == 0


@pytest.mark.parametrize(("can_spare", "errors"), [(True, 2), (False, 1)])
def test_what_lacks_memory_for_good_is_called(cuda: FakeCuda, can_spare: bool, errors: int) -> None:
    graphs = CudaGraphs(GPU, lambda: can_spare)
    cuda.errors = [full() for _ in range(3)]
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*out of memory"):
        assert graphs.record("part", lambda: 2) == 2
    assert len(cuda.errors) == 3 - errors and not graphs.records


def test_a_part_that_is_recorded_is_not_recorded_again(cuda: FakeCuda) -> None:
    graphs = CudaGraphs(GPU)
    assert graphs.record("part", lambda: 1) == graphs.record("part", lambda: 2) == 1
    assert graphs.report.graphs == 1 and len(cuda.captured_on) == 1


def recorded() -> CudaGraphs:
    """Of one part, which gives 1."""
    graphs = CudaGraphs(GPU)
    graphs.record("part", lambda: 1)
    return graphs


@pytest.mark.parametrize("forgets", [True, False])
def test_no_two_that_live_capture_on_one_stream(cuda: FakeCuda, forgets: bool) -> None:
    """Though torch gives out the same again, and what the first one had is freed when that ends."""
    first = recorded()
    for _ in range(MOST_STREAMS - 1):
        cuda.Stream(GPU)  # somebody else's
    second = recorded()
    if forgets:
        first.forget()
    del first
    assert second.run("part", lambda: 2) == 1
    given = len(cuda.streams)
    third = recorded()
    assert len(cuda.streams) == given and cuda.captured_on[-1] is cuda.captured_on[0]
    assert second.run("part", lambda: 2) == third.run("part", lambda: 2) == 1
    del second, third
    assert captures.STREAMS.left == [0, 0, 0]  # type: ignore[attr-defined]


def test_more_than_there_are_streams_are_called(cuda: FakeCuda) -> None:
    many, told, spared = [recorded() for _ in range(MOST_STREAMS)], [], []
    last = CudaGraphs(GPU, lambda: bool(spared.append(1)), told.append)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*the 32 streams that torch has of cuda:1 are all"):
        assert last.record("part", lambda: 1) == 1
    assert spared == [1] and not last.records and last.run("part", lambda: 2) == 2
    assert last.record("other", lambda: 3) == 3 and spared == [1]
    assert not told and last.report.failure is None  # others of this target record again, once some have ended
    assert [graphs.run("part", lambda: 2) for graphs in many] == [1] * MOST_STREAMS
    many.pop()
    last.forget()
    assert last.record("part", lambda: 1) == last.run("part", lambda: 2) == 1
    another = CudaGraphs(GPU, lambda: many.pop() is not None, told.append)
    assert another.record("part", lambda: 1) == another.run("part", lambda: 2) == 1


class Big:
    """Something that takes memory."""


def test_work_is_done_again_once_with_what_was_spared() -> None:
    made: list[weakref.ref[Big]] = []

    def work() -> int:
        assert not any(each() for each in made)  # what the first try made is gone
        big = Big()
        made.append(weakref.ref(big))
        if len(made) == 1:
            raise full()
        return len(made)

    assert with_memory(work, lambda: True) == 2
    made.clear()
    with pytest.raises(torch.OutOfMemoryError):
        with_memory(work, lambda: False)
    assert len(made) == 1


def test_only_a_gpu_records() -> None:
    plain = captures_for(torch.device("cpu"))
    assert isinstance(plain, Plain) and not plain.records
    assert plain.record("part", lambda: 5) == 5 and plain.run("part", lambda: 6) == 6
    assert isinstance(captures_for(GPU), CudaGraphs)


def test_events_are_of_the_device_that_they_are_asked_about(cuda: FakeCuda) -> None:
    event = DeviceEvent(GPU, timed=True)
    event.record()
    assert event._event.timed and event._event.stream is cuda.current_stream(GPU)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_target_does_not_try_again_what_could_not_be_captured(cuda: FakeCuda, failing: int) -> None:
    """Over whichever workspace that was: an older one records more when a later request has longer texts."""
    target = Target(AutoModelForCausalLM.from_config(small_config("llama")))
    target.forward = SimpleNamespace(is_ours=True, device=GPU)  # type: ignore[assignment]
    both = target.captures(), target.captures()
    assert isinstance(both[0], CudaGraphs) and isinstance(both[1], CudaGraphs)
    assert target.capture_report is both[1].report and target.records
    cuda.fails = True
    for each in (both[failing], both[1 - failing]):
        with pytest.warns(RuntimeWarning, match="without CUDA graphs"):
            each.record("part", lambda: 2)
        assert isinstance(target.captures(), Plain) and not target.records
        assert target.capture_report is both[failing].report  # the first that failed


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 4), (4, 4), (5, 8), (8, 8), (9, 9)])
def test_counts_are_rounded_up(count: int, expected: int) -> None:
    assert rounded_up(count, (0, 4, 8)) == expected
