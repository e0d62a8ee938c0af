"""What `ltd train-acceptance` can be asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltd.common.number_ranges import check_between, check_least, check_positive, check_seed
from ltd.common.threads import check_threads

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
        check_least(self, tokens=1, epochs=1, batch=1)
        if self.width is not None:
            check_least(self, width=1)
        check_between(self, mixing=(0.001, 1), warmup=(0, 0.9), held_out=(0.001, 0.5))
        check_positive(self, "weight", "lr")
        check_seed(self)
        check_threads(self.threads)

    def choices(self) -> dict[str, Any]:
        """What the result depends on, ready for JSON; folders by their name alone."""
        values = {name: value for name, value in asdict(self).items() if name not in RUN_ONLY}
        for name in ("draft", "run", "target"):
            values[name] = values[name] and Path(values[name]).name
        return values
