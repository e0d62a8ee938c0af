"""How the process uses memory."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory instead of giving it back to the system; whether it does.

    Large tensors that come and go are otherwise fresh pages each time, and where a page fault is dear, as in virtual
    machines, that can cost more than computing what is in them. All threads share one arena, as the others give back
    what they hold whatever they are told. The process never shrinks again, so this is for long jobs, not for a library
    call. Linux with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = {M_TRIM_THRESHOLD: LARGEST, M_MMAP_THRESHOLD: LARGEST, M_ARENA_MAX: 1}
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in wanted.items())
