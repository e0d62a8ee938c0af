"""Streams that nobody has read to their ends when the program ends.

Python would close them when its modules are half gone, and print an error for each. They are closed before that, and
nothing is done for requests that will not come.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Generator
from typing import Any, TypeVar

Stream = TypeVar("Stream", bound=Generator[Any, None, None])
_streams: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()
program_ends = threading.Event()


def closed_at_exit(stream: Stream) -> Stream:
    """The stream, which is closed when the program ends, if it still exists then."""
    _streams.add(stream)
    return stream


@atexit.register
def close_streams() -> None:
    """Closes those that are left; one that another thread is running just now is left to that."""
    program_ends.set()
    for stream in list(_streams):
        with contextlib.suppress(ValueError):
            stream.close()
