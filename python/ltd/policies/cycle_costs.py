"""What a cycle costs, as rules that weigh it against the expected gain know it.

Tables by depth, size and context length; `ltd.latency.cycle_costs` makes them of a machine's latencies. In these rules
only ratios of costs count, so any unit will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles
from ltd.errors import InputError
from ltd.policies.learned.setting import Setting

STILL = 1e-9  # a hinge that would bend by less, relative to the first of them, is left out


@dataclass(frozen=True, eq=False)
class CycleCosts:
    """Costs of a cycle's parts; D is the deepest tree, N the largest, T the number of lengths with known costs.

    Args:
        made_for: what they were measured on.
        lengths: float64 (T,), context lengths, ascending.
        drafting: float64 (D + 1, T), of all drafting that expands 0 … D times; linear in the length between, constant
            outside.
        verifying: float64 (N + 1, T), of verifying 0 … N candidates, with the rest of the cycle; likewise.

    Raises:
        InputError: tables that do not go together, or in which more of something costs less.
    """

    made_for: Setting
    lengths: Doubles
    drafting: Doubles
    verifying: Doubles

    def __post_init__(self) -> None:
        if self.lengths.ndim != 1 or not len(self.lengths) or np.any(np.diff(self.lengths) <= 0):
            raise InputError("the lengths of costs must ascend")
        for name, table in (("drafting", self.drafting), ("verifying", self.verifying)):
            if table.ndim != 2 or not len(table) or table.shape[1] != len(self.lengths):
                raise InputError(f"costs of {name} of shape {table.shape} do not fit {len(self.lengths)} lengths")
            if not np.isfinite(table).all() or np.any(table <= 0) or np.any(np.diff(table, axis=0) < 0):
                raise InputError(f"costs of {name} must be positive numbers that never fall")

    @property
    def deepest(self) -> int:
        """D."""
        return len(self.drafting) - 1

    @property
    def most(self) -> int:
        """N."""
        return len(self.verifying) - 1

    @cached_property
    def convex(self) -> Doubles:
        """float64 (N + 1, T): `verifying` as the nearest curves over the size that grow ever faster."""
        return np.stack([nearest_convex(column) for column in self.verifying.T], axis=1)

    def at(self, table: Doubles, lengths: NDArray[Any]) -> Doubles:
        """float64 (n, m): one of the tables (m, T) at context lengths (n,)."""
        return between_lengths(self.lengths, table, lengths)


def between_lengths(knots: Doubles, table: Doubles, lengths: NDArray[Any]) -> Doubles:
    """float64 (n, m): costs (m, T), known at context lengths `knots` (T,), at lengths (n,); outside as at the edge."""
    costs = table.T
    if len(knots) == 1:
        return np.broadcast_to(costs, (len(lengths), costs.shape[1]))
    inside = np.minimum(np.maximum(lengths, knots[0]), knots[-1])  # np.clip takes longer for so few
    before = np.minimum(np.searchsorted(knots, inside, side="right") - 1, len(knots) - 2)
    part = ((inside - knots[before]) / (knots[before + 1] - knots[before]))[:, None]
    found: Doubles = costs[before] * (1 - part) + costs[before + 1] * part
    return found


# --- convex regression ---


def nearest_convex(values: Doubles) -> Doubles:
    """(n,) → (n,): the nearest values, in least squares, that never fall and whose steps never shrink.

    Such a curve is a constant and hinges that bend upwards, max(i - k, 0) with weights of 0 or more.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return values
    places = np.arange(len(values), dtype=np.float64)
    hinges = np.maximum(places[:, None] - places[:-1], 0.0)
    hinges -= hinges.mean(axis=0)
    sizes = np.sqrt((hinges * hinges).sum(axis=0))
    mean = values.mean()
    found: Doubles = mean + (hinges / sizes) @ nonnegative_fit(hinges / sizes, values - mean)
    return found


def nonnegative_fit(columns: Doubles, wanted: Doubles) -> Doubles:
    """(m, n), (m,) → (n,): weights of 0 or more with which the columns' sum is nearest to what is wanted.

    Lawson and Hanson's active sets (1974): the column that would help most comes in, those whose weights would become
    negative go out, until none would help.
    """
    weights, used = np.zeros(columns.shape[1]), np.zeros(columns.shape[1], dtype=bool)
    least = STILL * np.abs(columns.T @ wanted).max()
    for _ in range(3 * len(weights)):  # far more than it takes; rounding must not let it turn in a circle
        helps = np.where(used, -np.inf, columns.T @ (wanted - columns @ weights))
        if helps.max() <= least:
            break
        used[helps.argmax()] = True
        while True:
            free = np.zeros_like(weights)
            free[used] = np.linalg.lstsq(columns[:, used], wanted, rcond=None)[0]
            below = used & (free <= 0)
            if not below.any():
                break
            weights = weights + (weights[below] / (weights[below] - free[below])).min() * (free - weights)
            used &= ~(below & (weights <= STILL * weights.max(initial=0.0)))
            weights = np.where(used, weights, 0.0)
        weights = free
    return weights
