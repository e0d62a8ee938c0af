"""A lock that what holds it can be copied with."""

from __future__ import annotations

import threading

from ltd.errors import InputError


class TurnLock:
    """A lock for a `with`, which one thread may enter again and again. A copy is a lock of its own.

    Raises:
        InputError: it is to be pickled, with the model that it belongs to.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: dict[int, object]) -> TurnLock:
        return TurnLock()

    def __reduce__(self) -> str:
        raise InputError("a loaded model cannot be pickled, nor a decoder with one; load it where it is used: ltd.load")
