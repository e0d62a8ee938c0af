"""Rules that weigh what a tree should gain against what it costs.

Under the draft a candidate is on the target's path with the probability exp(score), the product of those along its
path. So a tree of some candidates gains one token and the sum of these probabilities, and the best tree of a size has
the candidates of the highest scores, which is how all trees here are chosen.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.argument_types import as_whole, settle
from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.policies.base import FixedSize
from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.learned.setting import Setting, TunedElsewhereWarning
from ltd.tree import DraftTree, candidate_count, check_tree_limits

MACHINE = {"hardware", "dtype", "threads"}  # of a setting: what else may differ at the cost of speed


class CostAware(ABC):
    """A rule that reads the draft's scores and measured costs alone.

    Attributes:
        costs: of a cycle.
        max_depth: expansions after the root's own draft forward, at most.
        size: the most candidates to verify, without the root.
    """

    __slots__ = ()

    costs: CycleCosts
    max_depth: int
    size: int

    @property
    def width(self) -> int | None:
        """Beam width of its trees: that of the costs."""
        return self.costs.made_for.width

    def check_limits(self) -> None:
        """Raises InputError for a number out of range, or beyond what the costs know."""
        settle(self, as_whole, "max_depth", "size")
        check_tree_limits(1 if self.width is None else self.width, self.max_depth, self.size)
        if self.max_depth > self.costs.deepest or self.size > self.costs.most:
            raise InputError(
                f"a tree of depth {self.max_depth} and size {self.size} is beyond the costs, which are known to depth "
                f"{self.costs.deepest} and size {self.costs.most}"
            )

    @abstractmethod
    def decisions(self, scores: Floats, lengths: NDArray[Any], width: int) -> tuple[Integers, Integers]:
        """What it decides in many cycles at once.

        Args:
            scores: float32 (n, C), of the candidates of levels 0 … `max_depth` at least, level by level.
            lengths: (n,), context lengths. width: beam width W.

        Returns:
            depths, sizes: int64 (n,).
        """


@dataclass(frozen=True, slots=True, eq=False)
class SizedByCost(CostAware, FixedSize):
    """A rule for the size of trees of a fixed depth. A batch gets the mean of its sequences' sizes, rounded.

    Args:
        costs: of a cycle.
        max_depth: of every tree.
        size: the most candidates to verify.

    Raises:
        InputError: a number out of range, something else than a number, or beyond the costs.
    """

    costs: CycleCosts
    max_depth: int = 8
    size: int = 240

    def __post_init__(self) -> None:
        self.check_limits()

    @abstractmethod
    def best_sizes(self, chances: Doubles, lengths: NDArray[Any], depth: int) -> Integers:
        """int64 (n,): the sizes for n trees of a depth.

        Args:
            chances: float64 (n, m), see `in_order`. lengths: (n,), context lengths.
        """

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to the depth."""
        return depth < self.max_depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What is worth most."""
        scores, lengths = tree.scores[:, : tree.drafted].cpu().numpy(), tree.lengths.cpu().numpy()
        return round(float(self.best_sizes(in_order(scores, self.size), lengths, max(depth, 0)).mean()))

    def decisions(self, scores: Floats, lengths: NDArray[Any], width: int) -> tuple[Integers, Integers]:
        chances = in_order(scores[:, : candidate_count(width, self.max_depth)], self.size)
        return np.full(len(scores), self.max_depth), self.best_sizes(chances, lengths, self.max_depth)


def in_order(scores: Floats, most: int) -> Doubles:
    """float64 (n, m): the chances of the `most` best candidates, descending, from scores (n, c); NaN counts as 0."""
    ordered = -np.sort(-scores, axis=1)[:, :most]  # NaN comes last
    return np.nan_to_num(np.exp(ordered.astype(np.float64)), nan=0.0)


def ratios(chances: Doubles, drafting: Doubles, verifying: Doubles) -> Doubles:
    """float64 (n, m + 1): tokens per unit of cost of trees with the 0 … m best candidates.

    Args:
        chances: float64 (n, m), in order. drafting: float64 (n,). verifying: float64 (n, at least m + 1).
    """
    gains = np.ones((len(chances), chances.shape[1] + 1))
    np.cumsum(chances, axis=1, out=gains[:, 1:])
    gains[:, 1:] += 1.0
    found: Doubles = gains / (drafting[:, None] + verifying[:, : gains.shape[1]])
    return found


def check_costs_fit(costs: CycleCosts, here: Setting) -> None:
    """Compares what costs were measured on with where they are to be used; what is unknown always fits.

    So does another beam width, as the draft takes that of the costs.

    Raises:
        InputError: another target or draft head.

    Warns:
        TunedElsewhereWarning: another machine, dtype or number of threads.
    """
    again = "measure them with ltd train-baseline rules, and name the file with the option costs=FILE"
    for name, (made, used) in costs.made_for.differences(here).items():
        if name in ("target", "width") or (name in MACHINE and used is None):  # the target's name is for people
            continue
        said = f"the costs that the rule weighs were measured with {name} {made}, and here it is {used}"
        if name not in MACHINE:
            raise InputError(f"{said}; {again}")
        warnings.warn(
            f"{said}: the text stays the same, its speed may not; {again}", TunedElsewhereWarning, stacklevel=2
        )
