"""What a cycle costs on one machine: a model of seconds that `ltd.latency.calibration` makes and a JSON file keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ltd.common.arrays import Doubles
from ltd.common.files import expand_user, write_text
from ltd.common.json_files import Real, Whole, parse_json
from ltd.common.machine import machine_facts
from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import LOOKUP
from ltd.errors import InputError
from ltd.latency.interpolation import Interpolant
from ltd.ops.library import build_info
from ltd.target.locate import DEFAULT_TARGET

FORMAT, SCHEMA = "ltd-latency", 2
PARTS = ("begin", "expand", "verify", "other", "lookup", "plain", "prefill")
TABLES = ("median", "low", "high", "drift")
# The parts that take most of the time, whose samples at a point are all of the same work, and so tell how noisy the
# machine was; a beginning, for one, is a little slower after a large tree.
TELLING = ("verify", "plain")
NOISE_LIMIT, DRIFT_LIMIT = 0.15, 0.1
AGAIN = "calibrate again with ltd calibrate"


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of one part of a cycle, in seconds.

    Attributes:
        sizes: float64 (S,), strictly increasing; what they count depends on the part, see `LatencyModel`.
        lengths: float64 (T,), context lengths in tokens, strictly increasing.
        median, low, high: float64 (S, T), of the samples; low and high are the quartiles.
        drift: float64 (S, T), by how much the median of the later half of the samples is above that of the earlier
            half, relative to it.
    """

    sizes: Doubles
    lengths: Doubles
    median: Doubles
    low: Doubles
    high: Doubles
    drift: Doubles

    @property
    def noise(self) -> Doubles:
        """float64 (S, T): the distance of the quartiles relative to the median; 0 where that is 0."""
        spread = self.high - self.low
        return np.divide(spread, self.median, out=np.zeros_like(spread), where=self.median > 0)

    @cached_property
    def fitted(self) -> Interpolant:
        """Seconds by size and length."""
        return Interpolant(self.sizes, self.lengths, self.median)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; seconds."""
        knots = {"sizes": self.sizes.astype(int).tolist(), "lengths": self.lengths.astype(int).tolist()}
        return {**knots, **{name: getattr(self, name).tolist() for name in (*TABLES, "noise")}}

    @classmethod
    def from_dict(cls, values: Any) -> Measurements:
        """The other way round; a ValueError says what is wrong."""
        if not isinstance(values, dict):
            raise ValueError("it is no object")
        arrays = {name: _read_array(values, name) for name in ("sizes", "lengths", *TABLES)}
        for name in ("sizes", "lengths"):
            knots = arrays[name]
            if knots.ndim != 1 or len(knots) == 0 or knots[0] < 0 or np.any(np.diff(knots) <= 0):
                raise ValueError(f"its {name} are not increasing numbers from 0 on")
        shape = (len(arrays["sizes"]), len(arrays["lengths"]))
        for name in TABLES:
            if arrays[name].shape != shape:
                raise ValueError(f"its {name} has shape {arrays[name].shape} and not {shape}")
        low, median, high = arrays["low"], arrays["median"], arrays["high"]
        if np.any(low < 0) or np.any(low > median) or np.any(median > high):
            raise ValueError("its quartiles are negative or out of order")
        return cls(**arrays)


def _read_array(values: dict[str, Any], name: str) -> Doubles:
    """A table of finite numbers from JSON."""
    if name not in values:
        raise ValueError(f"it lacks {name}")
    try:
        array = np.array(values[name], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its {name} is no table of numbers") from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f"its {name} holds something that is not a finite number")
    return array


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Seconds of the parts of a cycle on one machine, for one sequence at a time and greedy acceptance.

    Every method takes numbers or arrays that broadcast against each other, and returns float64 seconds of that shape.
    `length` is the context length, committed tokens without the root. More of anything never costs less. Above what was
    measured the costs go on linearly; below they stay.

    Attributes:
        setup: what the costs depend on, see `setup_of`.
        parts: the measurements; their sizes count for `begin` the tokens of the last gain, for `expand` levels from
            1, for `verify` and `other` candidates without the root; `lookup`, `plain` and `prefill` have the one size
            0. Without a draft `begin` and `expand` take no time.
        rounds: how often every point was measured at least.
        seconds: how long measuring took.
    """

    setup: dict[str, Any]
    parts: dict[str, Measurements]
    rounds: int
    seconds: float

    @property
    def drafts(self) -> bool:
        """Whether there was a draft, and not only tokens that were looked up."""
        return bool(self.setup.get("draft_sha256") != LOOKUP)

    # --- asking ---

    def begin(self, gain: ArrayLike, length: ArrayLike) -> Doubles:
        """The draft reads the last cycle's `gain` tokens, and its forward at the root grows the first level."""
        return self.parts["begin"].fitted(gain, length)

    def expand(self, level: ArrayLike, length: ArrayLike) -> Doubles:
        """One expansion: the `level`-th after the root's own, from 1."""
        return self.parts["expand"].fitted(level, length)

    def draft(self, depth: ArrayLike, length: ArrayLike, gain: ArrayLike = 1) -> Doubles:
        """All drafting of a cycle that expands `depth` times, 0 … 12, after a gain of so many tokens."""
        return self.begin(gain, length) + self._expansions(depth, length)

    def verify(self, size: ArrayLike, length: ArrayLike) -> Doubles:
        """The target's forward over `size` candidates and the root."""
        return self.parts["verify"].fitted(size, length)

    def other(self, size: ArrayLike, length: ArrayLike) -> Doubles:
        """Selection, acceptance, commit and bookkeeping of such a cycle; a policy that thinks is not in it."""
        return self.parts["other"].fitted(size, length)

    def lookup(self, length: ArrayLike) -> Doubles:
        """Looking tokens up in the text, and all else that a second source of candidates takes in a cycle."""
        return self.parts["lookup"].fitted(0, length)

    def cycle(self, depth: ArrayLike, size: ArrayLike, length: ArrayLike, gain: ArrayLike = 1) -> Doubles:
        """A whole cycle of draft trees, after a gain of so many tokens."""
        return self.draft(depth, length, gain) + self.verify(size, length) + self.other(size, length)

    def plain(self, length: ArrayLike) -> Doubles:
        """A whole cycle of plain decoding: one token."""
        return self.parts["plain"].fitted(0, length)

    def prefill(self, length: ArrayLike) -> Doubles:
        """Reading a prompt of `length` tokens, the draft's part included, up to the first new token."""
        return self.parts["prefill"].fitted(0, length)

    @cached_property
    def _expansions(self) -> Interpolant:
        """All expansions by depth, from 0, and length."""
        single = self.parts["expand"].fitted
        sums = np.cumsum(single.values, axis=0)
        return Interpolant(np.insert(single.sizes, 0, 0.0), single.lengths, np.insert(sums, 0, 0.0, axis=0))

    # --- judging ---

    @property
    def noise(self) -> float:
        """How far the quartiles of a forward of the target are apart, relative to its median; the median of all."""
        return float(np.median(np.concatenate([self.parts[name].noise.ravel() for name in TELLING])))

    @property
    def drift(self) -> float:
        """How much slower a forward of the target was in the later half of the samples; the median of all."""
        return float(np.median(np.concatenate([self.parts[name].drift.ravel() for name in TELLING])))

    def warning(self) -> str | None:
        """One sentence if the measurements are too noisy to rely on, with how noisy they are; else None."""
        if self.noise <= NOISE_LIMIT and abs(self.drift) <= DRIFT_LIMIT:
            return None
        change = f"{abs(self.drift):.0%} {'slower' if self.drift > 0 else 'faster'}"
        return (
            f"the measurements are noisy: for half of the forwards the quartiles are {self.noise:.0%} of the median "
            f"apart or more, and the later half of the samples was {change} than the earlier one; "
            f"end other programs and {AGAIN}"
        )

    def mismatch(self, setup: dict[str, Any]) -> str | None:
        """One sentence if this was measured on something else than `setup` (see `setup_of`); None if it fits."""
        for name in sorted(self.setup.keys() | setup.keys()):
            before, now = self.setup.get(name), setup.get(name)
            if before != now:
                return f"the latencies were measured with {name} {before!r}, and here it is {now!r}"
        return None

    # --- the file ---

    def to_dict(self) -> dict[str, Any]:
        """Everything, as values for JSON."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "unit": "seconds; noise and drift are relative",
            "setup": self.setup,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "noise": self.noise,
            "drift": self.drift,
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
        }

    def save(self, path: Path) -> None:
        """Writes the JSON file; nobody ever sees half of it."""
        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Reads what `save` wrote.

        Raises:
            InputError: there is no such file, it is not of this kind or version, or it is damaged.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; ltd calibrate makes such a file") from error
        values = parse_json(content, dict[str, Any], str(path))
        if values.get("format") != FORMAT:
            raise InputError(f"{path} holds no latencies; name a file that ltd calibrate wrote")
        if values.get("schema") != SCHEMA:
            raise InputError(
                f"{path} has version {values.get('schema')!r} of the format, this ltd reads {SCHEMA}; {AGAIN}"
            )
        try:
            return cls(**_read_fields(parse_json(content, LatencyFile, "it")))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}; {AGAIN}") from error


@dataclass(frozen=True, slots=True)
class LatencyFile:
    """The fields of a model as they are stored."""

    setup: dict[str, Any]
    parts: dict[str, Any]
    rounds: Whole
    seconds: Real


def _read_fields(file: LatencyFile) -> dict[str, Any]:
    """The fields of a model from JSON; a ValueError says what is wrong."""
    parts = {name: _read_part(file.parts, name) for name in PARTS}
    return {"setup": file.setup, "parts": parts, "rounds": file.rounds, "seconds": file.seconds}


def _read_part(parts: dict[str, Any], name: str) -> Measurements:
    """One part of a model from JSON; a ValueError says what is wrong."""
    try:
        part = Measurements.from_dict(parts.get(name))
        if name == "expand" and not np.array_equal(part.sizes, np.arange(1, len(part.sizes) + 1)):
            raise ValueError("its sizes are not the levels 1, 2, 3, …")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return part


def setup_of(decoder: Decoder, target: str | Path | None = None, width: int | None = None) -> dict[str, Any]:
    """What the costs of a cycle depend on: the machine, the build, and the models.

    Args:
        decoder: the models, loaded.
        target: what the target was loaded from, as for `ltd.load`. The draft counts by its weights; where tokens are
            looked up without one, `LOOKUP` takes the place of their hash.
        width: beam width; None is the draft's own.
    """
    build, draft = build_info(), decoder.draft
    weights = None if draft is None or draft.origin is None else draft.origin.sha256
    return {
        **machine_facts(decoder.target.device),
        "ltd": build["version"],
        "kernels": build["cpu_kernels"],
        "device": str(decoder.target.device),
        "dtype": str(decoder.target.dtype).removeprefix("torch."),
        "target": expand_user(target or DEFAULT_TARGET).resolve().name,
        "draft_sha256": LOOKUP if decoder.looks_up else weights,
        "width": None if draft is None else width or draft.width,
    }
