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
        writing, training: seconds per token: writing it with its features, and learning it in one epoch.
        epochs: passes over the data.
        bound: what the number of tokens comes from: "time", or "space" where the features of more would not fit.
    """

    tokens: Count
    writing: Real
    training: Real
    epochs: Count
    bound: str

    @property
    def hours(self) -> tuple[float, float]:
        """Of writing and training."""
        training = self.training * self.epochs / (1 - SHARE_FOR_MEASURING)
        return self.writing * self.tokens / 3600, training * self.tokens / 3600

    def __str__(self) -> str:
        writing, training = self.hours
        limit = " (as many as their features have space for)" if self.bound == "space" else ""
        return (
            f"this will take about {sum(self.hours):.1f} hours: {self.tokens:,} tokens{limit} are written in about "
            f"{writing:.1f} hours and learned {self.epochs} times in {training:.1f}"
        )


def fitting_plan(
    config: TrainDraftConfig, writing: float, training: float, most_tokens: int | None, least: int
) -> DataPlan:
    """As many tokens as `config.hours` are enough for, at these seconds per token; `least` are written already."""
    each = writing + training * config.epochs / (1 - SHARE_FOR_MEASURING)
    tokens, bound = int(config.hours * 3600 / each), "time"
    if most_tokens is not None and tokens > most_tokens:
        tokens, bound = most_tokens, "space"
    return DataPlan(max(tokens, least, 1), writing, training, config.epochs, bound)


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
