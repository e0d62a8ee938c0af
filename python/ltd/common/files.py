"""Where files of the user go, writing them so that nobody ever sees half of one, and telling them apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for what `ltd` prepares once: `$XDG_CACHE_HOME/ltd`, or `~/.cache/ltd`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltd"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes to a temporary name in the same folder, then renames."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file's content, or None if there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
