"""How the process uses memory."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory instead of giving it back to the system; whether it does.

    Large tensors that come and go are otherwise fresh pages each time, and where a page fault is dear, as in virtual
    machines, that can cost more than computing what is in them. The process never shrinks again, so this is for
    long jobs, not for a library call. Linux with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, LARGEST) == 1 for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
