"""What the benchmarks share: timing several ways of doing one thing in turns, and showing and writing the results."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from rich.table import Table

from console import wide_console
from ltd.common.files import write_text
from ltd.common.machine import machine_facts
from ltd.ops.library import build_info

AT_LEAST_ROUNDS = 10


@dataclass
class Case:
    """One line of the table: an operator (or a step made of some) and the PyTorch equivalent, both ready to run."""

    name: str
    run: Callable[[], object]
    equivalent: str
    run_equivalent: Callable[[], object]


@dataclass
class Timing:
    """Microseconds: median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        low, middle, high = (value * 1e6 for value in quantiles(seconds, n=4, method="inclusive"))
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.low:,.1f} … {self.high:,.1f})"

    def milliseconds(self) -> str:
        """The same for people, a thousand times as long a unit."""
        return f"{self.median / 1e3:.2f} ({self.low / 1e3:.2f} … {self.high / 1e3:.2f})"


@dataclass
class Result:
    """One line of the table, measured."""

    case: Case
    ltd: Timing
    torch: Timing

    def to_dict(self) -> dict[str, object]:
        """For JSON; microseconds."""
        names = {"operator": self.case.name, "equivalent": self.case.equivalent}
        return {**names, "ltd": asdict(self.ltd), "torch": asdict(self.torch)}


def measure(case: Case, seconds: float) -> Result:
    """Runs both alternately for so long, after a warm-up of some runs each."""
    functions = (case.run, case.run_equivalent)
    time_in_turns(functions, range(5))
    return Result(case, *map(Timing.of, time_in_turns(functions, rounds_for(seconds))))


def rounds_for(seconds: float) -> Iterator[int]:
    """Rounds until so much time is over, and never too few for quartiles."""
    end = time.perf_counter() + seconds
    count = 0
    while count < AT_LEAST_ROUNDS or time.perf_counter() < end:
        yield count
        count += 1


def time_in_turns(functions: Sequence[Callable[[], object]], rounds: Iterable[int]) -> list[list[float]]:
    """Seconds of every function in every round; in a round all of them run, so that a slow moment is everyone's."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in rounds:
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return times


def command_line() -> str:
    """The command that this process is, with OpenMP's variables, on which the speed of threads depends."""
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("OMP_")]
    return shlex.join([*variables, "python", *sys.argv])


def circumstances(device: torch.device | None = None) -> dict[str, Any]:
    """What was run, the machine (see `machine_facts`) and the build, for the beginning of a file of results."""
    return {"command": command_line(), **machine_facts(device), "build": build_info()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the results, indented for people; makes the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n")


def print_table(results: list[Result], title: str) -> None:
    """One line per case."""
    table = Table(title=title, caption="microseconds: median (quartiles), run alternately")
    table.add_column("operator")
    table.add_column("ltd", justify="right")
    table.add_column("PyTorch equivalent")
    table.add_column("PyTorch", justify="right")
    table.add_column("ratio", justify="right")
    for result in results:
        ratio = f"{result.torch.median / result.ltd.median:.1f}"
        table.add_row(result.case.name, str(result.ltd), result.case.equivalent, str(result.torch), ratio)
    wide_console().print(table)
