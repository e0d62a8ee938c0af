"""The semantics of a CUDA graph on the CPU: operators recorded with their numbers and their memory, and replayed.

While it records, what a capture forbids raises: reading a value on the host, and a tensor of the host's numbers. Before
each replay all memory that the recording made is filled with rubbish, so that what is read was written by the replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

HOST_READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
HOST_CONSTANTS = {"lift_fresh", "lift_fresh_copy"}
RUBBISH_BYTE = 0xFF  # NaN in floats, -1 in whole numbers


class CaptureError(RuntimeError):
    """Something that no graph can hold."""


def tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass
class Call:
    """One operator: its arguments, what it returned, and which of that is in memory that it made."""

    operator: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: list[Tensor]
    fresh: list[bool]

    def again(self) -> None:
        made = tensors_in(self.operator(*self.arguments, **self.options))
        for before, now, is_fresh in zip(self.results, made, self.fresh, strict=True):
            if is_fresh:
                before.copy_(now)


class Recorder(TorchDispatchMode):
    """Keeps the calls of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, operator._opname
        if name in HOST_READS:
            raise CaptureError(f"{operator} reads a value on the host")
        if name in HOST_CONSTANTS:
            raise CaptureError(f"{operator} brings the host's numbers")
        given = {memory(tensor) for tensor in tensors_in((args, kwargs))}
        result = operator(*args, **kwargs)
        results = tensors_in(result)
        fresh = [memory(tensor) not in given for tensor in results]
        is_writing = any(a.alias_info is not None and a.alias_info.is_write for a in operator._schema.arguments)
        if any(fresh) or is_writing:
            self.calls.append(Call(operator, args, kwargs, results, fresh))
        return result


@dataclass
class Recording:
    """The calls of a function, and what it returned."""

    calls: list[Call]
    result: Any

    def replay(self) -> Any:
        for call in self.calls:
            for tensor, is_fresh in zip(call.results, call.fresh, strict=True):
                if is_fresh:
                    tensor.untyped_storage().fill_(RUBBISH_BYTE)
        for call in self.calls:
            if not call.operator._opname.startswith(("empty", "new_empty")):
                call.again()
        return self.result


@dataclass
class Tape:
    """`ltd.engine.captures.Captures` by recordings of operators.

    Attributes:
        replays: how often each key was replayed; calls: keys that were not recorded, in order.
    """

    records: bool = True
    recordings: dict[Any, Recording] = field(default_factory=dict)
    replays: dict[Any, int] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    def replayed(self, part: str, number: int) -> int:
        """How often a part was replayed with this number fixed in it, for whichever lengths of texts."""
        return sum(count for key, count in self.replays.items() if key[:2] == (part, number))

    def record(self, key: Any, function: Callable[[], Any]) -> Any:
        if key in self.recordings:
            return self.recordings[key].replay()
        function()  # tables that are made when they are first asked for
        with Recorder() as recorder:
            result = function()
        self.recordings[key] = Recording(recorder.calls, result)
        return result

    def run(self, key: Any, function: Callable[[], Any]) -> Any:
        recording = self.recordings.get(key)
        if recording is None:
            self.calls.append(key)
            return function()
        self.replays[key] = self.replays.get(key, 0) + 1
        with _disable_current_modes():  # a replay is one launch, whatever was recorded
            return recording.replay()

    def forget(self) -> None:
        self.recordings.clear()
