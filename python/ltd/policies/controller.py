"""A controller without networks: expected gain from calibrated scores, set against measured costs.

A table tells how likely a candidate of a level is on the target's own path, by its score. The expected gain of depth D
and size V is then

    E(D, V) = a + b * Σ chances of the V best-scored candidates of depth D,     1 <= E <= D + 2,

where a and b, of every D and V, make up for what the chances do not know of each other (they are near 1),
and with cost(D, V, L) in seconds a cycle at context length L is worth

    E - rate * cost, with the rate (tokens per second) that is reached in the long run, or E / cost without a rate.

When drafting has stopped, the size of the greatest worth is verified. Before that, the worth of going on is predicted:
a linear function for every depth of what is known now. `ltd_rl.baselines.controller_fit` fits all tables to traces.

Looking at a level takes 40 to 55 µs of NumPy on one core of a server, once per level; the size is then known as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.common.files import write_text
from ltd.common.json_files import Count, Real, Whole, read_json
from ltd.errors import InputError
from ltd.tree import MAX_SIZE, DraftTree, candidate_count, check_tree_limits

FORMAT, SCHEMA = "ltd-controller", 1
BINS, BINS_PER_NAT = 512, 32
FEATURES = 6


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedGain:
    """The controller; D is the deepest tree, S the number of sizes, T that of lengths with known costs.

    Args:
        width: beam width W that it was fitted for.
        sizes: what it chooses from, ascending, from 1 on.
        chances: float64 (D + 1, BINS), by level and `bins_of` the score: the probability to be on the target's path.
        trust: float64 (2, D + 1, S), a and b.
        lengths: float64 (T,), context lengths, ascending.
        costs: float64 (D + 1, S, T), seconds of a cycle; linear in the length between, constant outside.
        ahead: float64 (D, FEATURES): what `features` of a depth predict of the worth of going on.
        rate: tokens per second that a second is worth; None: the worth is tokens per second of the cycle itself.
        drafts: False if plain decoding is worth more.

    Raises:
        InputError: parts that do not go together.

    Attributes:
        looked: what was seen last and how it was judged, as the size is asked for where drafting has just stopped.
    """

    width: int
    sizes: tuple[int, ...]
    chances: Doubles
    trust: Doubles
    lengths: Doubles
    costs: Doubles
    ahead: Doubles
    rate: float | None
    drafts: bool = True
    looked: list[tuple[tuple[int, bytes, bytes], tuple[Doubles, Doubles]]] = field(
        default_factory=list, init=False, repr=False
    )

    def __post_init__(self) -> None:
        levels = len(self.chances)
        check_tree_limits(self.width, levels - 1, 0)
        ladder = np.asarray(self.sizes)
        if not len(ladder) or ladder[0] < 1 or ladder[-1] > MAX_SIZE or np.any(np.diff(ladder) <= 0):
            raise InputError(f"a controller's sizes {list(self.sizes)} must ascend within 1 … {MAX_SIZE}")
        if self.lengths.ndim != 1 or not len(self.lengths) or np.any(np.diff(self.lengths) <= 0):
            raise InputError("a controller's lengths must ascend")
        for name, shape in (
            ("chances", (levels, BINS)),
            ("trust", (2, levels, len(ladder))),
            ("costs", (levels, len(ladder), len(self.lengths))),
            ("ahead", (levels - 1, FEATURES)),
        ):
            table = getattr(self, name)
            if table.shape != shape or not np.isfinite(table).all():
                raise InputError(f"a controller's {name} must be finite numbers of shape {shape}, not {table.shape}")
        if np.any(self.costs <= 0) or (self.rate is not None and not self.rate > 0):
            raise InputError("a controller's costs and rate must be positive")

    @property
    def max_depth(self) -> int:
        """D."""
        return len(self.chances) - 1

    @property
    def max_size(self) -> int:
        """The largest size."""
        return self.sizes[-1]

    # --- the questions of a policy; a batch decides what is best for the mean of its sequences ---

    def start(self, batch: int) -> ExpectedGain:
        """Itself: it keeps nothing between cycles."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing to drop."""

    def speculate(self, lengths: torch.Tensor, gained: Sequence[int] = ()) -> bool:
        """As it was found to pay on the traces."""
        return self.drafts

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether going on is predicted to be worth more than the best size now."""
        worth, features = self._look(tree, depth)
        return bool(self.going_on(features, depth).mean() > worth.max(axis=1).mean())

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size that is worth most."""
        worth, _ = self._look(tree, depth)
        return self.sizes[int(worth.mean(axis=0).argmax())]

    def _look(self, tree: DraftTree, depth: int) -> tuple[Doubles, Doubles]:
        """`judge` of what a tree holds."""
        if tree.width != self.width:
            raise InputError(
                f"the controller was fitted for beam width {self.width}, but the draft's is {tree.width}; fit another"
            )
        count = candidate_count(self.width, depth)
        scores, lengths = tree.scores[:, :count].cpu().numpy(), tree.lengths.cpu().numpy()
        key = (depth, lengths.tobytes(), scores.tobytes())
        if not self.looked or self.looked[0][0] != key:
            levels = level_of_candidates(self.width, depth)
            chances = self.chances[levels, bins_of(scores)]
            _, best = ranked(scores, chances, self.max_size)
            self.looked[:] = [(key, self.judge(best, chances[:, levels == depth], lengths, depth))]
        return self.looked[0][1]

    # --- the same for any number of cycles at once, n, of the same depth ---

    def judge(self, best: Doubles, newest: Doubles, lengths: NDArray[Any], depth: int) -> tuple[Doubles, Doubles]:
        """What every size is worth, and what predicts the worth of going on.

        Args:
            best: (n, m), the chances of the best-scored candidates, in order; up to `max_size`.
            newest: (n, W or W²), the chances of the newest level.
            lengths: (n,), context lengths.

        Returns:
            worth (n, S) and features (n, FEATURES).
        """
        worth = self.worth(self.expected(best, depth), self.cost(lengths, depth))
        return worth, features(worth.max(axis=1), newest.sum(axis=1), newest.max(axis=1))

    def expected(self, best: Doubles, depth: int) -> Doubles:
        """float64 (n, S): the expected gain of every size, from the chances (n, m) of the best candidates."""
        places = np.minimum(self.sizes, best.shape[1]) - 1
        add, times = self.trust[:, depth]
        gains: Doubles = np.minimum(np.maximum(add + times * best.cumsum(axis=1)[:, places], 1.0), depth + 2.0)
        return gains

    def cost(self, lengths: NDArray[Any], depth: int) -> Doubles:
        """float64 (n, S): seconds of cycles of every size at context lengths (n,)."""
        knots, costs = self.lengths, self.costs[depth].T
        if len(knots) == 1:
            return np.broadcast_to(costs, (len(lengths), costs.shape[1]))
        inside = np.minimum(np.maximum(lengths, knots[0]), knots[-1])  # np.clip takes longer for so few
        before = np.minimum(np.searchsorted(knots, inside, side="right") - 1, len(knots) - 2)
        part = ((inside - knots[before]) / (knots[before + 1] - knots[before]))[:, None]
        seconds: Doubles = costs[before] * (1 - part) + costs[before + 1] * part
        return seconds

    def worth(self, gain: NDArray[Any], seconds: NDArray[Any]) -> Doubles:
        """What cycles are worth: see this file's head."""
        found: Doubles = gain / seconds if self.rate is None else gain - self.rate * seconds
        return found

    def going_on(self, features: Doubles, depth: int) -> Doubles:
        """float64 (n,): the predicted worth of expanding once more, after `depth` expansions, and then the best."""
        predicted: Doubles = (features * self.ahead[depth]).sum(axis=1)
        return predicted

    def __str__(self) -> str:
        how = "tokens per second of each cycle" if self.rate is None else f"gain - {self.rate:.1f}/s * cost"
        return f"controller, depth up to {self.max_depth}, size up to {self.max_size}, maximising {how}"


def features(worth: Doubles, mass: Doubles, top: Doubles) -> Doubles:
    """float64 (n, FEATURES) of (n,) each: the present worth, and the sum and best of the newest level's chances."""
    return np.stack([np.ones_like(worth), worth, mass, mass * mass, top, top * top], axis=1)


def bins_of(scores: Floats) -> Integers:
    """The bin of every score: 0 holds the best, down to BINS - 1 for all below -BINS / BINS_PER_NAT, and NaN."""
    known = np.fmax(np.fmin(-scores * np.float32(BINS_PER_NAT), np.float32(BINS - 1)), np.float32(0))
    bins: Integers = known.astype(np.int64)
    return bins


def level_of_candidates(width: int, depth: int) -> Integers:
    """int64 (C,): the levels of the candidates of a tree of that depth."""
    return np.repeat(np.arange(depth + 1), [width, *[width * width] * depth])


def ranked(scores: Floats, chances: Doubles, most: int) -> tuple[Floats, Doubles]:
    """Scores (n, c) and chances (n, c) of the `most` best, by (score descending, index ascending) as the tree selects.

    It is enough to give the best of the levels before, in their order, and then the newest level.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    rows = np.arange(len(order))[:, None]
    return scores[rows, order], chances[rows, order]


def save_controller(controller: ExpectedGain, file: Path, facts: dict[str, Any] | None = None) -> None:
    """Writes JSON; `facts`, for people, say what it was fitted to."""
    values = {
        entry.name: value.tolist() if isinstance(value, np.ndarray) else value
        for entry in fields(controller)
        if entry.init
        for value in [getattr(controller, entry.name)]
    }
    content = {"format": FORMAT, "schema": SCHEMA, "fitted": facts or {}, **values}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(content) + "\n")
    except OSError as error:
        raise InputError(f"cannot write the controller {file}: {error}") from error


@dataclass(frozen=True, slots=True)
class ControllerFile:
    """The parts of a controller as they are stored; tables are lists of rows."""

    width: Count
    sizes: tuple[Whole, ...]
    chances: list[list[Real]]
    lengths: list[Real]
    ahead: list[list[Real]]
    trust: list[list[list[Real]]]
    costs: list[list[list[Real]]]
    rate: Real | None
    drafts: bool


def load_controller(file: str | Path) -> ExpectedGain:
    """Reads what `save_controller` wrote.

    Raises:
        InputError: there is no such file, or it is no whole controller; the message names it and says why.
    """
    try:
        values = read_json(Path(file), dict[str, Any])
        if (values.get("format"), values.get("schema")) != (FORMAT, SCHEMA):
            raise ValueError(f"it is not of format {FORMAT!r}, schema {SCHEMA}")
        parts = read_json(Path(file), ControllerFile)
        tables = {
            name: np.array(getattr(parts, name), dtype=np.float64).reshape(shape)
            for name, shape in (("chances", (-1, BINS)), ("lengths", -1), ("ahead", (-1, FEATURES)))
        }
        return ExpectedGain(
            width=parts.width,
            sizes=parts.sizes,
            trust=np.array(parts.trust, dtype=np.float64),
            costs=np.array(parts.costs, dtype=np.float64),
            rate=parts.rate,
            drafts=parts.drafts,
            **tables,
        )
    except ValueError as error:
        raise InputError(f"the controller {file} cannot be used: {error}") from error
