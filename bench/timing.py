"""Timing two ways of doing one thing, alternately, and showing the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import quantiles

from rich.console import Console
from rich.table import Table


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
        low, middle, high = (value * 1e6 for value in quantiles(seconds, n=4))
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.low:,.1f} … {self.high:,.1f})"


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
    for function in functions * 5:
        function()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < 10 or time.perf_counter() < end:
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return Result(case, Timing.of(times[0]), Timing.of(times[1]))


def print_table(results: list[Result], title: str) -> None:
    """One line per case; as wide as it needs where the output is not a terminal."""
    table = Table(title=title, caption="microseconds: median (quartiles), run alternately")
    table.add_column("operator")
    table.add_column("ltd", justify="right")
    table.add_column("PyTorch equivalent")
    table.add_column("PyTorch", justify="right")
    table.add_column("ratio", justify="right")
    for result in results:
        ratio = f"{result.torch.median / result.ltd.median:.1f}"
        table.add_row(result.case.name, str(result.ltd), result.case.equivalent, str(result.torch), ratio)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
