"""What `ltd train-draft` can be asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ltd.common.differences import is_same
from ltd.common.number_ranges import check_between, check_least, check_positive, check_seed
from ltd.common.threads import check_threads
from ltd.errors import InputError
from ltd.training.data.mix import DEFAULT_MIX, KIND_OF_NAME, ONLY_CHAT, parse_mix

# What a stage's files depend on is compared when a folder is resumed; these say how to run, not what to make.
RUN_ONLY = frozenset({"out", "threads", "device", "checkpoint_seconds", "cache_gigabytes", "rows", "features"})
# The kinds of draft, and the fields that only one of them knows.
ONLY_OF = {
    "eagle3": (
        "start_from", "new_words", "trim_vocabulary", "feature_layers", "intermediate_size", "fc_norm", "norm_output",
        "ttt_steps", "ttt_decay", "loss", "average_share", "start_from_target",
    ),
    "chain": ("layers",),
}  # fmt: skip
# What a head brings along whose training goes on.
OF_THE_HEAD = (
    "draft_vocab_size", "feature_layers", "intermediate_size", "fc_norm", "norm_output", "start_from_target",
)  # fmt: skip
LOSSES = ("weighed", "masked")
FEATURES = ("auto", "cached", "live")
ROWS, DEVICE_ROWS = 128, 1024  # conversations that a processor or a GPU writes at the same time


@dataclass(slots=True, kw_only=True)
class TrainDraftConfig:
    """One training of a draft. Every field is an option of the command."""

    out: str | Path  # folder of the run: data, features, checkpoints, and the finished draft in `head/` or `draft/`
    kind: str = "eagle3"  # eagle3, a head that reads the target's states, or chain, a small model of its own
    target: str | None = None  # folder, GGUF file or hub name of the target; None: the default target
    start_from: str | Path | None = None  # folder of a head whose training goes on
    new_words: bool = False  # choose that head's words anew, as many, by what is frequent in this run's text
    tokens: int | None = None  # size of the self-made data, in tokens; None: as many as `hours` are enough for
    hours: float = 8.0  # about how long all stages may take together where `tokens` are not given
    mix: str = DEFAULT_MIX  # kinds of text and their shares of the answer tokens
    length: int = 448  # longest short conversation, in tokens
    context_length: int = 2048  # longest conversation about a given text or of many turns, in tokens
    user_length: int = 128  # longest user turn, in tokens
    answer_length: int = 256  # longest answer, in tokens
    user_temperature: float = 0.8  # temperature at which the target writes user turns
    two_turn_share: float = 0.25  # share of the conversations that go on for a second turn
    opening_share: float = 0.5  # share of the first user turns that begin with given words; see `OPENINGS`
    greedy_share: float = 0.8  # share of the conversations answered greedily; the others at temperature 1
    user_turns: bool = False  # also train on the user's tokens
    held_out_share: float = 0.05  # share of the conversations kept for measuring
    shards_at_once: int = 1  # shards that know nothing of each other, so that workers can write them at the same time
    rows: int | None = None  # conversations written at the same time; None: 128, or 1,024 on a GPU
    draft_vocab_size: int = 8192  # words the draft can propose; 0, for a chain: all
    trim_vocabulary: bool = True  # at the end, keep only as many of them as pay in speed here
    feature_layers: tuple[int, ...] | None = None  # hidden states hs[k] that the head reads; None: EAGLE-3's three
    intermediate_size: int | None = None  # width of the head's feed-forward block; None: the target's own
    layers: tuple[int, ...] | None = None  # the target's layers that a chain keeps; None: the first and the last
    fc_norm: bool = False  # norm every feature before they are joined, as in EAGLE-3.1
    norm_output: bool = False  # feed states back after the final norm, as in EAGLE-3.1
    ttt_steps: int = 7  # steps of training-time test
    ttt_decay: float = 0.8  # weight of each step's loss relative to the step before
    loss: str = "weighed"  # what a place counts: weighed by what the draft's words cover of it, or masked as in EAGLE-3
    average_share: float = 0.05  # share of the updates that the averaged weights look back; 0: no average
    batch: int = 2  # conversations per update
    epochs: int = 3  # passes over the data
    learning_rate: float = 1e-3  # peak learning rate of AdamW
    warmup_share: float = 0.03  # share of the updates that warm up to it
    start_from_target: bool = True  # start the head's layer from the target's last one
    seed: int = 0  # seed of the data, the initial weights and the order
    device: str = "cpu"  # cpu, cuda or cuda:N
    dtype: str = "auto"  # arithmetic: auto, float32 or bfloat16; weights are kept in float32
    threads: int | None = None  # processor threads; None: torch's own choice
    features: str = (
        "auto"  # the target's states: cached on disk, or live, made anew for every batch; auto: live on a GPU
    )
    checkpoint_seconds: float = 120.0  # time between checkpoints
    cache_gigabytes: float = 40.0  # most disk space for cached features

    def __post_init__(self) -> None:
        self._check_kind()
        check_least(self, length=16, user_length=1, answer_length=1, ttt_steps=1, batch=1, epochs=1, shards_at_once=1)
        check_least(self, **{name: 1 for name in ("tokens", "rows") if getattr(self, name) is not None})
        if self.has_long_texts:
            check_least(self, context_length=self.length)
        check_least(self, draft_vocab_size=0 if self.kind == "chain" else 1)
        check_between(self, two_turn_share=(0, 1), opening_share=(0, 1), greedy_share=(0, 1))
        check_between(self, held_out_share=(0.001, 0.5), warmup_share=(0, 0.9), average_share=(0, 1))
        check_positive(self, "user_temperature", "ttt_decay", "learning_rate", "checkpoint_seconds", "cache_gigabytes")
        check_positive(self, "hours")
        if self.tokens is not None and self.hours != DEFAULTS["hours"]:
            raise InputError("hours have no effect where tokens are given; leave one of them out")
        for name, choices in (("loss", LOSSES), ("features", FEATURES)):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}")
        check_seed(self)
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}, but training knows auto, float32 and bfloat16")
        if self.intermediate_size is not None:
            check_least(self, intermediate_size=1)
        if self.feature_layers is not None:
            self.feature_layers = tuple(self.feature_layers)
            if not self.feature_layers or list(self.feature_layers) != sorted(set(self.feature_layers)):
                raise InputError(f"feature_layers is {self.feature_layers}, but needs indices from low to high")
        if self.layers is not None:
            self.layers = tuple(self.layers)
            if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
                raise InputError(f"layers is {self.layers}, but needs indices of the target's layers from low to high")
        check_threads(self.threads)

    def _check_kind(self) -> None:
        if self.kind not in ONLY_OF:
            raise InputError(f"kind is {self.kind!r}, but must be one of {', '.join(ONLY_OF)}")
        for name in self._of_other_kinds():
            if getattr(self, name) != DEFAULTS[name]:
                owner = next(kind for kind, names in ONLY_OF.items() if name in names)
                raise InputError(f"{name} is an option of kind {owner} only; leave it out for kind {self.kind}")
        if self.start_from is None and self.new_words:
            raise InputError("new_words chooses anew the words of the head to start from; give start_from too")
        if self.start_from is not None:
            for name in OF_THE_HEAD:
                if getattr(self, name) != DEFAULTS[name]:
                    raise InputError(f"{name} is that of the head to start from; leave it out beside start_from")

    def _of_other_kinds(self) -> set[str]:
        return {name for kind, names in ONLY_OF.items() if kind != self.kind for name in names}

    def _without_meaning(self) -> set[str]:
        """The fields that say nothing about this training."""
        return self._of_other_kinds() | set(() if self.start_from is None else OF_THE_HEAD)

    def head_options(self) -> dict[str, Any]:
        """Fields of `Eagle3Config` that are to differ from the defaults for the target."""
        sizes = {"feature_layers": self.feature_layers, "intermediate_size": self.intermediate_size}
        flags = {"fc_norm": self.fc_norm, "norm_output": self.norm_output}
        return {**{name: value for name, value in sizes.items() if value is not None}, **flags}

    @property
    def shares(self) -> dict[str, float]:
        """The share of every kind of text in the answer tokens."""
        return parse_mix(self.mix)

    @property
    def has_long_texts(self) -> bool:
        """Whether conversations may be as long as `context_length`."""
        return any(KIND_OF_NAME[name].is_long for name in self.shares)

    @property
    def rows_here(self) -> int:
        """Conversations written at the same time on this device."""
        return self.rows or (ROWS if self.device == "cpu" else DEVICE_ROWS)

    @property
    def caches_features(self) -> bool:
        """Whether the target's states are kept on disk; on a GPU they are sooner made than read."""
        return self.features == "cached" or (self.features == "auto" and self.device == "cpu")

    def to_dict(self) -> dict[str, Any]:
        """The fields that this training knows as plain values, ready for JSON."""
        values = {name: value for name, value in asdict(self).items() if name not in self._without_meaning()}
        return {
            name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for name, value in values.items()
        }

    def check_same(self, stored: dict[str, Any]) -> None:
        """Raise InputError naming the first field in which this config differs from the one a folder was made with.

        What `stored` does not name is younger than the folder, and was as in `FORMER` or had its default.
        """
        for name, mine in self.to_dict().items():
            theirs = stored.get(name, FORMER.get(name, DEFAULTS[name]))
            if name not in RUN_ONLY and not is_same(theirs, mine):
                raise InputError(
                    f"{self.out} was started with {name} = {theirs!r}, but this run says {mine!r};"
                    f" use the same value or another folder"
                )


DEFAULTS = {field.name: field.default for field in fields(TrainDraftConfig)}
# What was done before these fields were there, where it is not their default.
FORMER = {"mix": ONLY_CHAT, "loss": "masked", "average_share": 0.0}
