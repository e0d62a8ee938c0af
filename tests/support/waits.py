"""A device that must be waited for, in the CPU's place: counts the waits, and forbids those that nobody counts.

On a GPU a value that Python reads, a tensor of Python's numbers, and an index of them or of a mask let the host wait
for all that was launched. Here they raise, except for what came with a `HostCopy`, whose memory on the host is another
than on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Gain
from ltd.engine import host_copy

READS = {"tolist", "item", "numpy", "cpu", "nonzero", "equal", "allclose"}
READS |= {f"__{name}__" for name in ("bool", "int", "float", "index", "array", "contains")}
CONSTANTS = {"tensor", "as_tensor", "from_numpy", "new_tensor"}
INDEXING = {"__getitem__", "__setitem__"}


class WouldWaitError(RuntimeError):
    """The host would have waited for the device."""


@dataclass
class CountedEvent:
    """What tells when a copy has come. Until it is waited for, nothing has."""

    waits: Waits
    device: Tensor
    host: Tensor

    def record(self) -> None:
        self.host.fill_(-1)
        self.sent = self.device.clone()

    def synchronize(self) -> None:
        self.host.copy_(self.sent)
        self.waits.count += 1


@dataclass
class Waits(TorchFunctionMode):
    """Counts waits for copies; forbids others while it is entered."""

    count: int = 0
    hosts: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def host_side(self, whole: Tensor) -> tuple[Tensor, CountedEvent]:
        self.hosts.append(torch.zeros_like(whole))
        return self.hosts[-1], CountedEvent(self, whole, self.hosts[-1])

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in CONSTANTS and not isinstance(function, type(Tensor.add)):
            raise WouldWaitError(f"torch.{name} brings the host's numbers")
        if name in READS and not self.came_to_the_host(args[0]):
            raise WouldWaitError(f"Tensor.{name} reads a value")
        if name in INDEXING and not self.came_to_the_host(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, range)) for part in index):
                raise WouldWaitError("a list as an index brings the host's numbers")
            if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index):
                raise WouldWaitError("a mask as an index is counted first")
        return function(*args, **(kwargs or {}))

    def came_to_the_host(self, tensor: Any) -> bool:
        places = {host.untyped_storage().data_ptr() for host in self.hosts}
        return isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in places


@contextmanager
def device_to_wait_for() -> Iterator[Waits]:
    """What is made here has its numbers on a device; the waits are counted, and forbidden where the mode is entered."""
    waits = Waits()
    with patch.object(host_copy, "host_side", waits.host_side):
        yield waits


@contextmanager
def waits_of_cycles(decoder: Decoder) -> Iterator[list[int]]:
    """As `device_to_wait_for`; gives how often the host waits in every cycle that the decoder runs meanwhile."""
    cycle, counts = decoder.cycle, list[int]()

    def watched(*arguments: Any) -> Gain:
        before = waits.count
        with waits:
            gain = cycle(*arguments)
        counts.append(waits.count - before)
        return gain

    with device_to_wait_for() as waits, patch.object(decoder, "cycle", watched):
        yield counts
