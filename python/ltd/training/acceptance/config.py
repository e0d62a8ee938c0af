"""What `ltd train-acceptance` can be asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltd.common.threads import check_threads
from ltd.errors import InputError
from ltd.training.config import MOST_SEED

RUN_ONLY = frozenset({"out", "threads", "dtype"})  # say how to run, not what to make


@dataclass(slots=True, kw_only=True)
class AcceptanceConfig:
    """One training of an acceptance head; the defaults are SpecDec++'s, but for the learning rate."""

    draft: str | Path  # folder of the chain draft whose states the head reads
    run: str | Path  # folder of a `train-draft` run, whose conversations are the texts
    out: str | Path  # folder of the head, its data and its checkpoint
    target: str | None = None  # folder, GGUF file or hub name; None: the default target
    tokens: int = 80_000  # answer tokens to read
    mixing: float = 0.15  # share of an answer's positions that carry the draft's token in one sequence
    weight: float = 6.0  # of a rejection in the loss
    width: int | None = None  # of the head's blocks; None: the size of the draft's states
    epochs: int = 3
    lr: float = 1e-3  # peak learning rate of AdamW
    batch: int = 512  # drafted tokens per update
    warmup: float = 0.03  # share of the updates that lead up to the peak
    held_out: float = 0.05  # share of the conversations kept for measuring
    seed: int = 0
    dtype: str = "auto"  # of the target and the draft
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"tokens": 1, "epochs": 1, "batch": 1, "seed": 0, "width": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, but must be at least {least}")
        check_threads(self.threads)
        for name, (low, high) in {"mixing": (0.001, 1.0), "warmup": (0.0, 0.9), "held_out": (0.001, 0.5),
                                  "seed": (0, MOST_SEED)}.items():  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}, but must be between {low} and {high}")
        for name in ("weight", "lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} is {getattr(self, name)}, but must be a number above 0")

    def choices(self) -> dict[str, Any]:
        """What the result depends on, ready for JSON; folders by their name alone."""
        values = {name: value for name, value in asdict(self).items() if name not in RUN_ONLY}
        for name in ("draft", "run", "target"):
            values[name] = values[name] and Path(values[name]).name
        return values
