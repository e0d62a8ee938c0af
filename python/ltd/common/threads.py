"""How many threads there may be, and how many are best where nobody said.

A number far above the cores ends torch, or takes it minutes to start them. Two threads on one core, or more threads
than a container may run at a time, are slower than fewer: they wait for each other.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ltd.errors import InputError

ROOT = Path("/")
# Where the two versions of control groups are mounted, alone or beside each other; see `man 7 cgroups`.
UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
CPU_CONTROLLER = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")
GIVEN_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # that torch takes its own number from


MOST_GIVEN = 1024  # threads that nobody has use of, unless there are more processors
NUMBERS = re.compile(r"\s*\+?0*[1-9]\d*\s*(,[\s\d,+]*)?")  # of threads, as OpenMP has them: one for each level


@dataclass(frozen=True, slots=True)
class Processors:
    """What this process may run on.

    Attributes:
        usable: processors it may be placed on, as the system counts them.
        cores: those of them that are not another's second thread.
        quota: how many it may keep busy in the mean, as its control groups say; None is no limit.
    """

    usable: int
    cores: int
    quota: float | None = None

    @property
    def threads(self) -> int:
        """How many threads are best if nothing is measured: as many as there are cores, and no more than the quota."""
        return self.cores if self.quota is None else max(1, min(self.cores, math.ceil(self.quota)))

    def __str__(self) -> str:
        parts = [_count(self.cores, "core")]
        if self.usable != self.cores:
            parts.append(f"{self.usable} hardware threads")
        if self.quota is not None:
            parts.append(f"a quota of {self.quota:g} processors")
        return ", ".join(parts)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def usable_cores() -> int:
    """How many processors this process may be placed on, which in a container can be fewer than the machine has."""
    return len(_affinity())


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def find_processors(root: Path = ROOT) -> Processors:
    """What this process may run on, read from the files below `root`; what they do not say is no limit."""
    usable = _affinity()
    return Processors(len(usable), len({_siblings(root, number) for number in usable}), _quota(root))


def _siblings(root: Path, processor: int) -> str:
    """The hardware threads of the core that a processor belongs to, as the system names them."""
    topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # of new and of old kernels
        if text := _read(topology / name):
            return text
    return str(processor)


def _quota(root: Path) -> float | None:
    """The least that a control group of this process, or one above it, allows."""
    found: list[float] = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _folders(root, UNIFIED, path):
                limit, _, period = (_read(folder / "cpu.max") or "").partition(" ")
                found += _share(limit, period)
        elif "cpu" in controllers.split(","):
            for folder in _folders(root, CPU_CONTROLLER, path):
                limit, period = (_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
                found += _share(limit, period)
    return min(found, default=None)


def _folders(root: Path, mounts: tuple[str, ...], path: str) -> Iterator[Path]:
    """A control group and those above it; in a container its own may be what is mounted."""
    for mount in mounts:
        group = root / mount / path.lstrip("/")
        while group.is_relative_to(root / mount):
            yield group
            group = group.parent


def _share(limit: str, period: str) -> list[float]:
    """Processors from microseconds in microseconds; none where there is no limit ("max", -1) or no such file."""
    return [int(limit) / int(period)] if limit.isdigit() and period.isdigit() and int(period) > 0 else []


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return None


def check_threads(threads: int | None) -> None:
    """Raises InputError for a number of CPU threads that this process has no processors for; None is the default."""
    cores = usable_cores()
    if threads is not None and (type(threads) is not int or not 1 <= threads <= cores):
        raise InputError(
            f"threads is {threads!r}, but must be a whole number from 1 to {cores}, as many as there are processors"
        )


def set_threads(threads: int | None) -> None:
    """Sets torch's threads on the CPU; raises InputError as `check_threads` and `choose_threads` do.

    None leaves the number there is, which is torch's own or what OMP_NUM_THREADS, torch.set_num_threads or an earlier
    call gave. Only the first call of a process lowers a number of torch's own that is above `Processors.threads`.
    """
    global _decided
    check_threads(threads)
    import torch  # takes seconds, and to check a number needs none of it

    if threads is None and not _decided:
        threads, _ = choose_threads(torch.get_num_threads(), find_processors())
    _decided = True
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


_decided = False  # whether the number of threads was set in this process


def choose_threads(present: int, processors: Processors) -> tuple[int, str]:
    """The number of threads where none was asked for, and why, for people.

    Args:
        present: torch's number now. It starts with one for all processors that it may be placed on, or for their cores;
            any other was given.

    Raises:
        InputError: an environment variable gives something that is no number of threads.
    """
    given = [name for name in GIVEN_NUMBERS if os.environ.get(name)]
    for name in given:
        most = max(MOST_GIVEN, processors.usable)
        if not NUMBERS.fullmatch(os.environ[name]) or exceeds(os.environ[name], most):
            raise InputError(
                f"{name} is {os.environ[name]!r}, but must be a positive whole number of threads, at most {most}"
            )
    if given:
        return present, f"as {given[0]} says"
    if present not in (processors.usable, processors.cores):
        return present, "as torch was told"
    if processors.threads < processors.cores:
        return min(present, processors.threads), "what the quota allows"
    return min(present, processors.threads), "one for each core"


def exceeds(numbers: str, most: int) -> bool:
    """Whether a number in a text is above `most`; by its digits, as Python refuses to read thousands of them."""
    found = (digits.lstrip("0") for digits in re.findall(r"\d+", numbers))
    return any((len(digits), digits) > (len(str(most)), str(most)) for digits in found)
