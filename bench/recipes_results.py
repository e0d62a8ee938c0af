"""What the policies of `recipes.py` come to, by replay, and the tables of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Integers
from ltd.common.table import Table
from ltd.policies.controller import ExpectedGain
from ltd.policies.learned.policy import Learned
from ltd.tree import NOT_ASKED
from ltd_rl.baselines.controller_fit import decide_everywhere
from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.outcomes import Outcomes, all_catching_up, verified_sizes, visited

DRAWS = 2000  # of questions, for intervals
QUARTER = 0.025  # on either side of them

Decisions = tuple[Integers, Integers]
"""Depths, or `NOT_ASKED`, and steps of the ladder; int64 (P,) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Spending:
    """What decisions come to in every generation, (G,) each.

    Attributes:
        tokens: gained. seconds: taken. cycles: run.
        depths, sizes: sums over the cycles, plain ones as 0.
    """

    tokens: Integers
    seconds: NDArray[np.float64]
    cycles: Integers
    depths: Integers
    sizes: Integers

    @property
    def throughput(self) -> float:
        """Tokens per second, of all generations together."""
        return float(self.tokens.sum() / self.seconds.sum())

    def mean(self, sums: Integers) -> float:
        """Of a cycle."""
        return float(sums.sum() / self.cycles.sum())


@dataclass(frozen=True, slots=True)
class Figures:
    """What a policy comes to on one test.

    Attributes:
        tokens_per_second: of all generations together, prefill and deciding left out.
        to_static: the ratio to the best static setting. low, high: its 95 % interval over the questions.
        to_plain: the ratio to plain decoding.
        acceptance_length: τ.
        mean_depth, mean_size: of a cycle.
    """

    tokens_per_second: float
    to_static: float
    low: float
    high: float
    to_plain: float
    acceptance_length: float
    mean_depth: float
    mean_size: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way to decide: its name, how it was trained, if it was, and its figures by test."""

    name: str
    figures: dict[str, Figures]
    training: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def spend(outcomes: Outcomes, decisions: Decisions) -> Spending:
    """Adds up by generation what deciding so takes."""
    depths, steps = decisions
    rows, plain = np.arange(outcomes.positions), depths == NOT_ASKED
    levels = np.where(plain, 0, depths)
    gains, seconds = outcomes.gains[rows, depths, steps], outcomes.seconds[rows, depths, steps]
    verified = verified_sizes(outcomes.width, outcomes.depth, np.array(outcomes.sizes))
    sizes = np.where(plain, 0, verified[levels, steps])
    seen = visited(gains, outcomes.starts)

    def added(values: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(np.where(seen, values, 0), outcomes.starts[:-1])

    return Spending(
        tokens=np.diff(outcomes.starts),
        seconds=added(seconds.astype(np.float64)) + all_catching_up(outcomes, plain, seen),
        cycles=added(np.ones_like(levels)),
        depths=added(levels),
        sizes=added(sizes),
    )


def compared(spent: Spending, static: Spending, plain: Spending) -> Figures:
    """The figures of one test."""
    low, high = interval(spent, static)
    return Figures(
        tokens_per_second=spent.throughput,
        to_static=spent.throughput / static.throughput,
        low=low,
        high=high,
        to_plain=spent.throughput / plain.throughput,
        acceptance_length=spent.mean(spent.tokens),
        mean_depth=spent.mean(spent.depths),
        mean_size=spent.mean(spent.sizes),
    )


def interval(spent: Spending, static: Spending) -> tuple[float, float]:
    """Of the ratio of the seconds, if other questions like these had been asked: 95 % of draws of generations."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(spent.tokens), (DRAWS, len(spent.tokens)))
    ratios = static.seconds[drawn].sum(axis=1) / spent.seconds[drawn].sum(axis=1)
    low, high = np.quantile(ratios, (QUARTER, 1 - QUARTER))
    return float(low), float(high)


# --- decisions ---


def constant(outcomes: Outcomes, depth: int, step: int) -> Decisions:
    """The same in every cycle."""
    return np.full(outcomes.positions, depth), np.full(outcomes.positions, step)


def drafted(outcomes: Outcomes) -> Outcomes:
    """The outcomes without size 0, the first of the ladder, which a controller does not choose among."""
    return replace(
        outcomes, sizes=outcomes.sizes[1:], gains=outcomes.gains[:, :, 1:], seconds=outcomes.seconds[:, :, 1:]
    )


def controlled(controller: ExpectedGain, outcomes: Outcomes) -> Decisions:
    """As a controller decides that was fitted to `drafted` outcomes."""
    if not controller.drafts:
        return constant(outcomes, NOT_ASKED, 0)
    depths, steps = decide_everywhere(controller, drafted(outcomes))
    return depths, steps + 1


def learned(policy: Learned, outcomes: Outcomes) -> Decisions:
    """As learned policies decide; their ladder may be a part of the outcomes'."""
    depths = stops(policy, outcomes)
    places = np.searchsorted(outcomes.sizes, policy.sizes)
    return depths, places[chosen_steps(policy, outcomes, depths)]


# --- tables ---


def make_table(rows: Sequence[Row], title: str) -> Table:
    """The first test in full, of the others the ratio to the best static setting."""
    first, *others = rows[0].figures
    columns = ["", f"{first}: x static", "95 %", "x plain", "τ", "mean D", "mean V",
               *(f"{name}: x static" for name in others), "steps", "wall s", "CPU s"]  # fmt: skip
    return Table(title, columns, [cells(row, first, others) for row in rows])


def cells(row: Row, first: str, others: Sequence[str]) -> list[str]:
    """A row for people."""
    found, training = row.figures[first], row.training
    means = (found.to_plain, found.acceptance_length, found.mean_depth, found.mean_size)
    times = [f"{training[name]:.0f}" if name in training else "" for name in ("wall_seconds", "cpu_seconds")]
    return [
        row.name,
        f"{found.to_static:.3f}",
        f"{found.low:.3f} … {found.high:.3f}",
        *(f"{mean:.2f}" for mean in means),
        *(f"{row.figures[name].to_static:.3f}" for name in others),
        training.get("steps", ""),
        *times,
    ]
