"""Where files of the user go, writing them so that nobody ever sees half of one, and telling them apart."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ltd.errors import InputError


def cache_folder() -> Path:
    """The folder for what `ltd` prepares once: `$XDG_CACHE_HOME/ltd`, or `~/.cache/ltd`.

    Raises:
        InputError: the user has no home, as in a container that runs under a user it does not know.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "ltd"
    try:
        return Path.home() / ".cache" / "ltd"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder, so there is no cache; set XDG_CACHE_HOME to a folder that is writable"
        ) from error


def cached(name: str) -> Path | None:
    """The file or folder of this name in the cache; None if there is none, or none that this user may see."""
    try:
        path = cache_folder() / name
    except InputError:
        return None
    return path if os.path.exists(path) else None  # Path.exists raises where it may not look


def expand_user(path: str | Path) -> Path:
    """A path with `~` replaced by a home folder.

    Raises:
        InputError: it is an empty text, which would be the current folder, or nobody knows that home.
    """
    if path == "":
        raise InputError("the name of a file or folder is empty; write one, or . for the current folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"the home folder in {str(path)!r} is not known here; write the whole path") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder; what is written there becomes `path` at the end, or is removed on failure.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with errors_about(path):
            yield unfinished
            unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):  # not to hide why it could not be written
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def errors_about(path: Path) -> Iterator[None]:
    """Lets the operating system's errors name this file; those of writing name none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a whole file, see `written_whole`."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def read_content(file: Path, what: str) -> bytes:
    """What a file holds. Raises InputError, which begins with `what`, if it cannot be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{what} is missing") from error
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}") from error


def content_hash(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file's content, or None if there is no such file."""
    return content_hash(path.read_bytes()) if path.is_file() else None


def files_hash(paths: Sequence[Path]) -> str | None:
    """SHA-256 of the one file; of several, of all their hashes in order; None of none."""
    hashes = [str(file_hash(path)) for path in paths]
    if len(hashes) > 1:
        return content_hash(" ".join(hashes).encode())
    return hashes[0] if hashes else None
