"""How many threads there may be: a number far above the cores ends torch, or takes it minutes to start them."""

from __future__ import annotations

import os

from ltd.errors import InputError


def usable_cores() -> int:
    """How many cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raises InputError for a number of CPU threads that this process has no cores for; None is torch's own choice."""
    cores = usable_cores()
    if threads is not None and (type(threads) is not int or not 1 <= threads <= cores):
        raise InputError(
            f"threads is {threads!r}, but must be a whole number from 1 to {cores}, which is how many cores there are"
        )


def set_threads(threads: int | None) -> None:
    """Sets torch's threads on the CPU, if a number is given; raises InputError as `check_threads` does."""
    check_threads(threads)
    if threads is not None:
        import torch  # takes seconds, and to check a number needs none of it

        torch.set_num_threads(threads)
