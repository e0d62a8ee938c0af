"""What `ltd train-draft` can be asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ltd.errors import InputError

# What a stage's files depend on is compared when a folder is resumed; these say how to run, not what to make.
RUN_ONLY = frozenset({"out", "threads", "device", "checkpoint_seconds", "cache_gigabytes", "rows"})


@dataclass(slots=True, kw_only=True)
class TrainDraftConfig:
    """One training of a draft head. Every field is an option of the command; the defaults made the shipped head."""

    out: str | Path  # folder of the run: data, features, checkpoints, and the finished head in `head/`
    target: str | None = None  # folder, GGUF file or hub name of the target; None: the default target
    tokens: int = 1_600_000  # size of the self-made data, in tokens
    length: int = 448  # longest conversation, in tokens
    user_length: int = 128  # longest user turn, in tokens
    answer_length: int = 256  # longest answer, in tokens
    user_temperature: float = 0.8  # temperature at which the target writes user turns
    two_turn_share: float = 0.25  # share of the conversations that go on for a second turn
    opening_share: float = 0.5  # share of the first user turns that begin with given words; see `OPENINGS`
    greedy_share: float = 0.8  # share of the conversations answered greedily; the others at temperature 1
    user_turns: bool = False  # also train on the user's tokens
    held_out_share: float = 0.05  # share of the conversations kept for measuring
    rows: int = 128  # conversations written at the same time
    draft_vocab_size: int = 8192  # words the draft can propose
    trim_vocabulary: bool = True  # at the end, keep only as many of them as pay in speed here
    feature_layers: tuple[int, ...] | None = None  # hidden states hs[k] that the head reads; None: EAGLE-3's three
    intermediate_size: int | None = None  # width of the head's feed-forward block; None: the target's own
    ttt_steps: int = 7  # steps of training-time test
    ttt_decay: float = 0.8  # weight of each step's loss relative to the step before
    batch: int = 2  # conversations per update
    epochs: int = 3  # passes over the data
    learning_rate: float = 1e-3  # peak learning rate of AdamW
    warmup_share: float = 0.03  # share of the updates that warm up to it
    start_from_target: bool = True  # start the head's layer from the target's last one
    seed: int = 0  # seed of the data, the initial weights and the order
    device: str = "cpu"  # cpu, cuda or cuda:N
    dtype: str = "auto"  # arithmetic: auto, float32 or bfloat16; weights are kept in float32
    threads: int | None = None  # processor threads; None: torch's own choice
    checkpoint_seconds: float = 120.0  # time between checkpoints
    cache_gigabytes: float = 20.0  # most disk space for cached features

    def __post_init__(self) -> None:
        least = {"tokens": 1, "length": 16, "user_length": 1, "answer_length": 1, "rows": 1, "draft_vocab_size": 1,
                 "ttt_steps": 1, "batch": 1, "epochs": 1, "seed": 0}  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise InputError(f"{name} is {value!r}, but must be a whole number of at least {bound}")
        for name in ("two_turn_share", "opening_share", "greedy_share"):
            self._check_range(name, 0.0, 1.0)
        self._check_range("held_out_share", 0.001, 0.5)
        self._check_range("warmup_share", 0.0, 0.9)
        for name in ("user_temperature", "ttt_decay", "learning_rate", "checkpoint_seconds", "cache_gigabytes"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value!r}, but must be a number above 0")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}, but training knows auto, float32 and bfloat16")
        if self.intermediate_size is not None and self.intermediate_size < 1:
            raise InputError(f"intermediate_size is {self.intermediate_size}, but must be at least 1")
        if self.feature_layers is not None:
            self.feature_layers = tuple(self.feature_layers)
            if not self.feature_layers or list(self.feature_layers) != sorted(set(self.feature_layers)):
                raise InputError(f"feature_layers is {self.feature_layers}, but needs indices from low to high")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}, but must be at least 1")

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not (isinstance(value, int | float) and low <= value <= high):
            raise InputError(f"{name} is {value!r}, but must be between {low} and {high}")

    def head_sizes(self) -> dict[str, Any]:
        """Fields of `Eagle3Config` that are to differ from the defaults for the target."""
        sizes = {"feature_layers": self.feature_layers, "intermediate_size": self.intermediate_size}
        return {name: value for name, value in sizes.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for JSON."""
        layers = None if self.feature_layers is None else list(self.feature_layers)
        return {**asdict(self), "out": str(self.out), "feature_layers": layers}

    def check_same(self, stored: dict[str, Any]) -> None:
        """Raise InputError naming the first field in which this config differs from the one a folder was made with."""
        for field in fields(self):
            mine, theirs = self.to_dict()[field.name], stored.get(field.name)
            if field.name not in RUN_ONLY and mine != theirs:
                raise InputError(
                    f"{self.out} was started with {field.name} = {theirs!r}, but this run says {mine!r};"
                    f" use the same value or another folder"
                )
