"""The parts of a cycle that run on the device alone, recorded once and replayed: the protocol, and what implements it.

What is recorded are the operators of a function with the addresses of their tensors and with their numbers, not the
Python around them. A replay therefore sees what the memory holds then: a longer prefix, another tree, other tokens.
A function that is to be recorded reads nothing on the host and makes no tensor of the host's numbers, and what it
returns lies at the same place after every replay.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from ltd.common.out_of_memory import FAILURES, is_out_of_memory

Part = Hashable
"""What tells recordings of one state apart: the part of the cycle, and the numbers that are fixed in it."""
Result = TypeVar("Result")
MOST_STREAMS = 32  # of a device, see `CaptureStreams`
WARM_UPS = 2  # before a capture, so that libraries have chosen their kernels and their workspaces


class Captures(Protocol):
    """Recordings over one state, whose tensors stay where they are.

    Attributes:
        records: whether anything is recorded at all. If not, calls are plain, and may have any size.
    """

    @property
    def records(self) -> bool: ...

    def record(self, key: Part, function: Callable[[], Result]) -> Result:
        """Records what a function does, and gives its result; the state is arbitrary afterwards.

        What is recorded under this key already is replayed instead.
        """
        ...

    def run(self, key: Part, function: Callable[[], Result]) -> Result:
        """What a function does, and its result: replayed if it was recorded under this key, else called."""
        ...

    def forget(self) -> None:
        """Lets all recordings go, as when the state's tensors have moved."""
        ...


class Plain:
    """`Captures` where there are none: every function is called."""

    records = False

    def record(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`; calls it."""
        return function()

    def run(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`; calls it."""
        return function()

    def forget(self) -> None:
        """See `Captures`; nothing."""


@dataclass(slots=True)
class CaptureReport:
    """What recording cost.

    Attributes:
        graphs: how many.
        seconds: for all of them, warming up included.
        bytes: of device memory that they hold in their pool; what warming up took is not theirs.
        failure: why there are none, or no more; None if all went well.
    """

    graphs: int = 0
    seconds: float = 0.0
    bytes: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a part was not captured.

    Attributes:
        message: in one line.
        is_of_memory: whether the device had too little.
    """

    message: str
    is_of_memory: bool

    @classmethod
    def of(cls, error: RuntimeError) -> Failure:
        """What an error says, itself or the one that it came of, as ending a capture that has failed fails too."""
        return cls(str(error).splitlines()[0], is_out_of_memory(error))


class CaptureStreams:
    """The streams that graphs are captured on, each lent to one `CudaGraphs` at a time.

    Libraries keep a workspace for each stream, of which graphs have the address. From torch 2.12 on, letting a graph go
    frees the cuBLAS workspace of its stream, so that another that was captured there would write into what is no longer
    its own (pytorch #175276, #193402). And torch has `MOST_STREAMS` streams of a device, which it gives out in turn.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._made: list[torch.cuda.Stream] = []
        self._free: dict[torch.device, list[torch.cuda.Stream]] = {}

    def take(self, device: torch.device) -> torch.cuda.Stream | None:
        """One that nobody else captures on until it is given back; None if all are lent.

        Args:
            device: with its number, as tensors have it.
        """
        try:
            return self._free.setdefault(device, []).pop()  # one step, so no two threads get the same
        except IndexError:
            with self._making:
                for _ in range(MOST_STREAMS):
                    stream = torch.cuda.Stream(device)
                    if stream not in self._made:
                        self._made.append(stream)
                        return stream
        return None

    def give_back(self, stream: torch.cuda.Stream) -> None:
        """The next one may have it; what was captured on it is gone. It takes no lock, as the garbage collector calls
        it, in the middle of anything."""
        self._free.setdefault(stream.device, []).append(stream)


STREAMS = CaptureStreams()
"""Those of this process."""


class CudaGraphs:
    """`Captures` by CUDA graphs that share one memory pool; record the largest first, and the others fit into its.

    All have one stream, for warming up too, as libraries keep a workspace for each stream that they have worked on, and
    no other `CudaGraphs` that lives has the same, see `CaptureStreams`. Where a part cannot be captured, a warning says
    why, once, and from then on every function is called. Where memory was lacking, or all streams are lent, it is tried
    a second time, if something could be spared; without a stream functions are called until `forget`, and that is no
    failure, as others will end.

    Args:
        device: of the state; it need not be the thread's current one.
        spare: lets go what nobody needs, memory and recordings; whether there was any.
        tell_failure: is given the report if a part cannot be captured, which may be long after the first ones were.

    Attributes:
        report: what it cost so far.
    """

    def __init__(
        self,
        device: torch.device,
        spare: Callable[[], bool] = lambda: False,
        tell_failure: Callable[[CaptureReport], None] = lambda report: None,
    ) -> None:
        self.device, self.report, self._spare, self._tell_failure = device, CaptureReport(), spare, tell_failure
        self._graphs: dict[Part, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._failed: list[torch.cuda.CUDAGraph] = []  # kept, as letting them go frees what the others work with
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._waits = False  # for a stream

    @property
    def records(self) -> bool:
        """See `Captures`; no more, once it has failed, or found no stream."""
        return self.report.failure is None and not self._waits

    def record(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`."""
        if key in self._graphs or not self.records:
            return self.run(key, function)
        if not self._has_stream():
            return function()
        begun = time.perf_counter()
        with torch.cuda.device(self.device):
            failure = self._failure(key, function)
            if failure is not None and failure.is_of_memory and self._spare():
                failure = self._failure(key, function)
            if failure is not None:
                self._give_up(key, failure.message)
            result = self.run(key, function)  # as capturing runs nothing
        self.report.graphs = len(self._graphs)
        self.report.seconds += time.perf_counter() - begun
        return result

    def _has_stream(self) -> bool:
        """Whether there is one to capture on; if not, a warning says so."""
        if self._stream is None:
            self._stream = STREAMS.take(self.device)
            if self._stream is None and self._spare():
                self._stream = STREAMS.take(self.device)
        if self._stream is None:
            self._waits = True
            warnings.warn(
                f"some cycles run without CUDA graphs, more slowly: the {MOST_STREAMS} streams that torch has of "
                f"{self.device} are all captured on by others",
                RuntimeWarning,
                stacklevel=3,
            )
        return self._stream is not None

    def _failure(self, key: Part, function: Callable[[], Any]) -> Failure | None:
        """Captures; why that was not possible, or None if it was. Nothing that the function made is held by it."""
        before = torch.cuda.current_stream(self.device)
        try:
            self._graphs[key] = self._captured(function)
        except RuntimeError as error:
            # A capture that cannot be ended leaves the thread on the stream of the capture.
            torch.cuda.set_stream(before)
            torch.cuda.synchronize(self.device)
            return Failure.of(error)
        return None

    def _give_up(self, key: Part, message: str) -> None:
        self.forget()
        self.report.bytes = 0
        self.report.failure = message
        self._tell_failure(self.report)
        warnings.warn(
            f"this GPU's cycles run without CUDA graphs, more slowly: {key} could not be captured: "
            f"{self.report.failure}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _captured(self, function: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream, current = self._stream, torch.cuda.current_stream(self.device)
        assert stream is not None
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(stream)
        # A capture begins by letting the allocator's free memory go; what is reserved before that says nothing.
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self.device)
        graph = torch.cuda.CUDAGraph()
        self._failed.append(graph)  # taken out again once its capture has ended well
        # Other threads may go on with what is none of this target's work.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            result = function()
        self._failed.pop()
        self.report.bytes += torch.cuda.memory_reserved(self.device) - before
        return graph, result

    def run(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`."""
        recorded = self._graphs.get(key)
        if recorded is None:
            return function()
        graph, result = recorded
        with torch.cuda.device(self.device):
            graph.replay()
        return result  # type: ignore[no-any-return]

    def forget(self) -> None:
        """See `Captures`. The stream may then be another's."""
        self._waits = False
        self._graphs.clear()
        self._failed.clear()
        self._pool = None
        if self._stream is not None:
            STREAMS.give_back(self._stream)
            self._stream = None

    def __del__(self) -> None:
        """Here and not in a callback of a weak reference, as the graphs must be gone before the stream is given back,
        and would live a little longer than that."""
        self.forget()


def captures_for(
    device: torch.device,
    spare: Callable[[], bool] = lambda: False,
    tell_failure: Callable[[CaptureReport], None] = lambda report: None,
) -> Captures:
    """What records on a device: graphs on a GPU, nothing elsewhere. Arguments as of `CudaGraphs`."""
    return CudaGraphs(device, spare, tell_failure) if device.type == "cuda" else Plain()


def with_memory(work: Callable[[], Result], spare: Callable[[], bool]) -> Result:
    """What some work gives; if there is too little memory for it, it is done once more after sparing some.

    Args:
        work: may be begun anew.
        spare: as of `CudaGraphs`.

    Raises:
        torch.OutOfMemoryError, RuntimeError or MemoryError: it was too little again, or nothing could be spared, see
            `is_out_of_memory`.
    """
    try:
        return work()
    except FAILURES as error:
        if not (is_out_of_memory(error) and spare()):
            raise
    return work()  # not up there, where the error still holds what the first try has made


def rounded_up(count: int, ladder: Iterable[int]) -> int:
    """The smallest number of an ascending ladder that is not below a count; the count itself above its top."""
    return next((step for step in ladder if step >= count), count)
