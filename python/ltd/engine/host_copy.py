"""Numbers that the device tells the host, in one copy that nobody waits for until they are needed."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ltd.engine.events import DeviceEvent

WORD_BYTES = 8


class Event(Protocol):
    """A point in what a device was told to do."""

    def record(self) -> None: ...

    def synchronize(self) -> None:
        """Waits until the device has come to where it was recorded."""


def host_side(whole: Tensor) -> tuple[Tensor, Event | None]:
    """Memory of the host to copy a tensor to, and what tells when it has come; the tensor itself if it is there."""
    if whole.is_cpu:
        return whole, None
    return torch.zeros_like(whole, device="cpu", pin_memory=True), DeviceEvent(whole.device)


class HostCopy:
    """Tensors of a device that lie side by side, and their copy on the host.

    Of a GPU's the copy is pinned: sending it costs the host a launch, and reading it waits for that copy alone, not for
    what was launched after it. On the CPU it is the same memory.

    Args:
        parts: shape and type of every tensor.
        device: where they are written.

    Attributes:
        parts: the tensors on the device, zeros at first.
    """

    def __init__(self, *parts: tuple[tuple[int, ...], torch.dtype], device: torch.device) -> None:
        words = [-(-math.prod(shape) * dtype.itemsize // WORD_BYTES) for shape, dtype in parts]
        self._whole = torch.zeros(sum(words), dtype=torch.int64, device=device)
        self._host, self._event = host_side(self._whole)
        self.parts, self._on_host = (
            [
                piece.view(dtype)[: math.prod(shape)].view(shape)
                for piece, (shape, dtype) in zip(memory.split(words), parts, strict=True)
            ]
            for memory in (self._whole, self._host)
        )

    @property
    def is_apart(self) -> bool:
        """Whether the host has a copy of its own."""
        return self._event is not None

    def send(self) -> None:
        """Lets the device copy them, after all that was launched so far."""
        if self._event is not None:
            self._host.copy_(self._whole, non_blocking=True)
            self._event.record()

    def wait(self) -> list[Tensor]:
        """The copies on the host, once what was sent has come; the next ones overwrite them."""
        if self._event is not None:
            self._event.synchronize()
        return self._on_host
