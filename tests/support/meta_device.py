"""Torch's meta device, whose tensors have no numbers, in a GPU's place.

It runs the operators that a GPU would be told, checks and all, and computes nothing. An operator over tensors of the
host and of the device at once is refused as on a GPU; torch's kernels for shapes let some of them pass. The host hears
what a test has made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from tape import tensors_in
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ltd.engine import host_copy
from ltd.engine.captures import Plain
from ltd.engine.host_copy import HostCopy

META = torch.device("meta")
TRANSFERS = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_"}
"""What a GPU takes tensors of the host for: to copy them there, as indices too."""


class TwoDevicesError(RuntimeError):
    """An operator whose tensors are not all on the device."""


class OneDevice(TorchDispatchMode):
    """Refuses operators over tensors of both; while `is_recorded`, all over tensors of the host, as a graph has none.

    A copy to memory of the host leaves there what was there, and one in new memory is zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_recorded = False

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """For what a graph would hold."""
        self.is_recorded = True
        try:
            yield
        finally:
            self.is_recorded = False

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, operator._opname
        given = tensors_in((args, kwargs))
        on_host = [tensor for tensor in given if not tensor.is_meta]
        if not self.is_recorded and name == "copy_" and on_host and given[1].is_meta:
            return given[0]
        if not self.is_recorded and name in ("to", "_to_copy") and not on_host and is_of_host(kwargs.get("device")):
            return torch.zeros_like(given[0], device="cpu")
        if len(on_host) < len(given) and name not in TRANSFERS and any(tensor.dim() > 0 for tensor in on_host):
            raise TwoDevicesError(f"{operator} reads tensors of the device and of the host")
        result = operator(*args, **kwargs)
        if self.is_recorded and not all(tensor.is_meta for tensor in (*given, *tensors_in(result))):
            raise TwoDevicesError(f"{operator} of a recorded part has a tensor of the host")
        return result


def is_of_host(device: torch.device | None) -> bool:
    """Whether a device that an operator is asked for is the host."""
    return device is not None and device.type == "cpu"


@dataclass
class Called(Plain):
    """`Captures` that call what would be recorded, as a graph would hold it.

    Args:
        mode: that is entered.

    Attributes:
        parts: what is recorded; called: what was called that is not.
    """

    mode: OneDevice
    records: bool = True
    parts: set[Any] = field(default_factory=set)
    called: set[Any] = field(default_factory=set)

    def record(self, key: Any, function: Callable[[], Any]) -> Any:
        if key not in self.parts:
            function()  # tables that are made when they are first asked for
        self.parts.add(key)
        return self.run(key, function)

    def run(self, key: Any, function: Callable[[], Any]) -> Any:
        if key not in self.parts:
            self.called.add(key)
            return function()
        with self.mode.recorded():
            return function()

    def forget(self) -> None:
        self.parts.clear()


class Passed:
    """An event that has been passed."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@dataclass
class Told:
    """What the host hears, instead of what no device has computed.

    Args:
        token: that all sequences gain. last: the one that the first of them gains in every third cycle.
        most: tokens that a sequence gains in a cycle; the first time, after the prefill, it is one.

    Attributes:
        reports: of gains so far; answers: of policies.
    """

    token: int
    last: int
    most: int
    reports: int = 0
    answers: int = 0

    def fill(self, parts: list[Tensor]) -> None:
        """Writes a report of gains, or a policy's answer: whether to go on, and a place of three in its sizes."""
        if len(parts) == 1:
            parts[0][:] = torch.tensor([self.answers % 3 > 0, self.answers % 3])
            self.answers += 1
            return
        line = parts[0]
        line[:, 1:] = self.token
        for place, row in enumerate(line):
            row[0] = 1 + (self.reports + place) % self.most if self.reports else 1
        if self.reports % 3 == 2:
            line[0, 2] = self.last
        self.reports += 1


def to_host(whole: Tensor) -> tuple[Tensor, Passed]:
    """As `ltd.engine.host_copy.host_side`, in memory that is not pinned, as that takes a GPU."""
    return torch.zeros_like(whole, device="cpu"), Passed()


@contextmanager
def host_hears(told: Told) -> Iterator[None]:
    """What the host waits for is what it is told."""
    wait = HostCopy.wait

    def heard(copy: HostCopy) -> list[Tensor]:
        parts = wait(copy)
        told.fill(parts)
        return parts

    with patch.object(host_copy, "host_side", to_host), patch.object(HostCopy, "wait", heard):
        yield
