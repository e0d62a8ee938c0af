"""How much data a run can have in the time that it may take, from rates measured at its start."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ltd.common.files import write_text
from ltd.common.json_files import Count, Real, read_json
from ltd.training.config import TrainDraftConfig

PLAN = "plan.json"
SHARE_FOR_MEASURING = 0.1  # of the time, for what is measured on the way and chosen at the end
UPDATES_TIMED = 4


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What a run is going to do.

    Attributes:
        tokens: of data.
        writing, reading, training: seconds per token: writing it, caching its features, and learning it in one epoch.
        epochs: passes over the data.
        bound: what the number of tokens comes from: "time", or "space" where the features of more would not fit.
    """

    tokens: Count
    writing: Real
    reading: Real
    training: Real
    epochs: Count
    bound: str

    @property
    def hours(self) -> tuple[float, float, float]:
        """Of writing, caching features and training."""
        each = (self.writing, self.reading, self.training * self.epochs / (1 - SHARE_FOR_MEASURING))
        return tuple(seconds * self.tokens / 3600 for seconds in each)  # type: ignore[return-value]

    def __str__(self) -> str:
        writing, reading, training = self.hours
        limit = " (as many as their features have space for)" if self.bound == "space" else ""
        return (
            f"this will take about {sum(self.hours):.1f} hours: {self.tokens:,} tokens{limit} are written in about "
            f"{writing:.1f} hours, their features cached in {reading:.1f}, and learned {self.epochs} times in "
            f"{training:.1f}"
        )


def fitting_plan(
    config: TrainDraftConfig, writing: float, reading: float, training: float, most_tokens: int | None, least: int
) -> DataPlan:
    """As many tokens as `config.hours` are enough for, at these seconds per token; `least` are written already."""
    each = writing + reading + training * config.epochs / (1 - SHARE_FOR_MEASURING)
    tokens, bound = int(config.hours * 3600 / each), "time"
    if most_tokens is not None and tokens > most_tokens:
        tokens, bound = most_tokens, "space"
    return DataPlan(max(tokens, least, 1), writing, reading, training, config.epochs, bound)


def read_plan(folder: Path) -> DataPlan | None:
    """The plan of a run's folder, if it was made already."""
    file = folder / PLAN
    return read_json(file, DataPlan, str(file)) if file.exists() else None


def write_plan(folder: Path, plan: DataPlan) -> None:
    """Keeps a plan, so that a run that goes on follows it."""
    write_text(folder / PLAN, json.dumps(asdict(plan), indent=1) + "\n")


def seconds_per_call(call: Callable[[], object], times: int = UPDATES_TIMED) -> float:
    """The mean over some calls, of which the first two warm up and do not count."""
    for _ in range(2):
        call()
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times
