"""One run at a time in a place: the second one is told, and touches nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ltd.errors import InputError

LOCK = ".lock"


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made if need be, for this run; a lock of a run that was killed holds no longer.

    Its lock file stays in the folder. It is the operating system's lock on it that counts.

    Raises:
        InputError: another run holds the folder, or it cannot be written.
    """
    with only_user(folder / LOCK, folder):
        yield


@contextlib.contextmanager
def only_user(file: Path, place: Path) -> Iterator[None]:
    """As `only_run`, for a place with its lock in another file."""
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another run is at work in {place}; wait until it ends, or name another place") from error
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}; name a place that is writable") from error
    try:
        yield
    finally:
        lock.release()


def holds_nothing(folder: Path) -> bool:
    """Whether there is no such place, or a folder with nothing but a lock."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(child.name == LOCK for child in folder.iterdir())
