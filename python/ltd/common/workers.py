"""Work in units that do not depend on each other: done here one after the other, or by workers on other machines.

The results are the same, in the same order, whoever does the work; `ltd.common.ray_crew` has the workers of Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ltd.common.files import expand_user, file_hash

if TYPE_CHECKING:  # it takes seconds
    import torch

U_contra = TypeVar("U_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
U = TypeVar("U")
R = TypeVar("R")
LOCAL = "local"  # the address of a Ray that is started here and ended afterwards
LARGE_FILE = 64 * 2**20  # bytes; of larger files the size is compared, as reading them takes long


class Job(Protocol[U_contra, R_co]):
    """What a worker is opened for. Workers on other machines get a copy, so it must be possible to pickle it."""

    @property
    def files(self) -> Sequence[Path]:
        """Files and folders that a worker reads, which on every machine must be what they are here."""

    def open(self) -> Callable[[U_contra], Iterator[R_co]]:
        """Loads what every unit needs, once in a worker, and returns what does one unit.

        Raises:
            InputError: it cannot be done, for example as a model is missing or does not fit.
        """


class Crew(Protocol):
    """Who does the work."""

    @property
    def is_remote(self) -> bool:
        """Whether it is done on machines that are not, or not only, this one."""

    @property
    def size(self) -> int:
        """How many units are done at the same time."""

    def machine_facts(self, device: torch.device | None = None) -> dict[str, str | int]:
        """What the speed depends on, as `ltd.common.machine.machine_facts`: of several machines what all share."""

    def do(self, job: Job[U, R], units: Sequence[U]) -> Iterator[R]:
        """The results of all units, in the order of the units, as they become known.

        A job that is the same object as before need not be opened again. What is left undone where the iterator is
        closed early is lost.

        Raises:
            InputError: as the job does; or workers are lost again and again.
        """


class Here:
    """Does the work in this process, one unit after the other; what is known of a unit so far comes at once."""

    is_remote, size = False, 1

    def __init__(self) -> None:
        self._opened: tuple[Any, Callable[[Any], Iterator[Any]]] | None = None

    def machine_facts(self, device: torch.device | None = None) -> dict[str, str | int]:
        """See `Crew`."""
        from ltd.common.machine import machine_facts  # imports torch

        return machine_facts(device)

    def do(self, job: Job[U, R], units: Sequence[U]) -> Iterator[R]:
        """See `Crew`."""
        if self._opened is None or self._opened[0] is not job:
            self._opened = None  # before the next job needs the memory
            self._opened = (job, job.open())
        for unit in units:
            yield from self._opened[1](unit)


def local_paths(*names: str | Path | None) -> list[Path]:
    """Those of the names that are files or folders here; others are names of something else, as on the hub."""
    paths = [expand_user(name) for name in names if name is not None]
    return [path.absolute() for path in paths if path.exists()]


def absolute(name: str | None) -> str | None:
    """A name that means the same in another working folder."""
    found = local_paths(name)
    return str(found[0]) if found else name


def fingerprint(path: Path, pattern: str = "*") -> str | None:
    """A hash of a file, or of all files in a folder that a pattern names, that is the same on all machines.

    None where there is nothing.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob(pattern) if file.is_file() and "__pycache__" not in file.parts)
        parts = [f"{file.relative_to(path).as_posix()} {fingerprint(file)}" for file in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if not path.is_file():
        return None
    size = path.stat().st_size
    return f"{size} bytes" if size > LARGE_FILE else file_hash(path)
