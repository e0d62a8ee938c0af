"""Points in what a GPU was told to do."""

from __future__ import annotations

import torch


class DeviceEvent:
    """One of a device that need not be the thread's current one; a plain `torch.cuda.Event` is recorded there.

    Args:
        device: a GPU.
        timed: whether it knows its time.
    """

    def __init__(self, device: torch.device, timed: bool = False) -> None:
        self.device, self._event = device, torch.cuda.Event(enable_timing=timed)

    def record(self) -> None:
        """Here, behind all that the device was told so far, on the stream that is its current one."""
        self._event.record(torch.cuda.current_stream(self.device))

    def query(self) -> bool:
        """Whether the device has passed it."""
        return bool(self._event.query())

    def synchronize(self) -> None:
        """Waits until it has."""
        self._event.synchronize()

    def elapsed_time(self, later: DeviceEvent) -> float:
        """Milliseconds from here to a later one; both are timed, and passed."""
        return float(self._event.elapsed_time(later._event))
