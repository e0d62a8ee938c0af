"""Whether `torchrun` started this program as several processes, as far as their environment says; needs no torch."""

from __future__ import annotations

import os


def launched_processes() -> int:
    """How many processes `torchrun` started with this one, on all machines together; 1 where it did not."""
    count = os.environ.get("WORLD_SIZE", "")
    return int(count) if "TORCHELASTIC_RUN_ID" in os.environ and count.isdecimal() else 1


def is_first() -> bool:
    """Whether this is the first of them, or the only one."""
    return os.environ.get("RANK", "0") == "0"
