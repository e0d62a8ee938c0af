"""SMART (Wang and Zhou 2026, arXiv 2604.09731), on the trees of EAGLE-3: a node is kept only where it pays.

A tree T that should gain L tokens saves C_target = c · L, with c the cost of a plain token, and costs C_spec, its
drafting and its verification. Level by level, the children of the nodes kept so far are looked at, and u is kept if

    discount · ΔC_target(u) / ΔC_spec(u)  >  C_target / C_spec,

if it is worth more, for what it costs, than the tree so far. (c stands on both sides.) Only the kept are expanded;
drafting stops where none of a level was kept, or the tree has its size. Published are discount 0.8, which makes up for
drafts that think too well of themselves, and a size of 200, the best of those that were tried.

What the paper leaves open, or does for other trees, is chosen so:

- L = 1 + Σ p over the kept, p = exp(score): what the tree gains if the draft is right. (The paper takes a mean over the
  tree's paths instead, by which more paths make all of them worth less.)
- ΔC_spec(u) is one more candidate's verification, by the convex regression of measured costs (the paper fits a curve
  that is convex too), and u's share of the next expansion, a W-th of it; at the last level there is none.
- C_spec is the drafting so far and the verification of the kept.
- A level's nodes are looked at from the best on, up to the first that is not kept: over a convex cost no other would
  be. An expansion's forward is over a whole beam, so nodes that were not kept may be drafted from; what grows there is
  not looked at. Verified are as many as were kept, the best of all, which gain no less by the same measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.argument_types import as_number, settle
from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.policies.cost_aware import CostAware
from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.cycle_costs_file import SHIPPED, find_costs
from ltd.tree import DraftTree, candidate_count


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The trees of n cycles so far.

    Attributes:
        rows: bool (n, W), which rows of the newest beam were kept; bool (n, 1) of the root, before the first level.
        counts: int64 (n,), nodes. tokens: float64 (n,), L.
        drafting: float64 (n, D + 1), verifying: float64 (n, N + 1), costs at these context lengths.
    """

    rows: NDArray[np.bool_]
    counts: Integers
    tokens: Doubles
    drafting: Doubles
    verifying: Doubles

    def part(self, chosen: NDArray[Any]) -> Kept:
        """Some of the cycles."""
        return Kept(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


@dataclass(frozen=True, slots=True, eq=False)
class Smart(CostAware):
    """Keeps nodes, level by level, that are worth more for their cost than the tree so far.

    In a batch every sequence keeps its own; drafting goes on while half of them want it, and the size is their mean,
    rounded.

    Args:
        costs: of a cycle.
        discount: of what the draft promises, above 0 and at most 1.
        max_depth: expansions after the root's own draft forward, at most.
        size: the most candidates to keep.

    Raises:
        InputError: a number out of range, something else than a number, or beyond the costs.
    """

    costs: CycleCosts
    discount: float = 0.8
    max_depth: int = 12
    size: int = 200

    def __post_init__(self) -> None:
        self.check_limits()
        settle(self, as_number, "discount")
        if not 0 < self.discount <= 1:
            raise InputError(f"discount is {self.discount}; it must be above 0 and at most 1, such as 0.8")

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self, batch: int) -> SmartCall:
        """A call that keeps the trees of a cycle while they grow."""
        return SmartCall(self)

    # --- n cycles at once ---

    def begun(self, lengths: NDArray[Any]) -> Kept:
        """The roots alone, at context lengths (n,)."""
        count, costs = len(lengths), self.costs
        return Kept(
            rows=np.ones((count, 1), dtype=bool),
            counts=np.zeros(count, dtype=np.int64),
            tokens=np.ones(count),
            drafting=costs.at(costs.drafting, lengths),
            verifying=costs.at(costs.convex[: self.size + 1], lengths),
        )

    def grown(self, kept: Kept, order: Integers, scores: Floats, width: int, depth: int) -> Kept:
        """The trees with what is kept of a level.

        Args:
            kept: of the levels before. order: int64 (n, c), the level's candidates, the best first, as beams are
                chosen. scores: float32 (n, c), in this order. width: W. depth: of the level.
        """
        chances = np.nan_to_num(np.exp(scores.astype(np.float64)), nan=0.0)
        reached = np.take_along_axis(kept.rows, order // width, axis=1)
        chances *= reached
        places = kept.counts[:, None] + reached.cumsum(axis=1) - reached  # nodes in the tree before each
        tokens = kept.tokens[:, None] + chances.cumsum(axis=1) - chances
        here, then = (
            np.take_along_axis(kept.verifying, np.minimum(places + more, self.size), axis=1) for more in (0, 1)
        )
        share = np.zeros(len(order))
        if depth < self.max_depth:
            share = (kept.drafting[:, depth + 1] - kept.drafting[:, depth]) / width
        price, spent = share[:, None] + (then - here), kept.drafting[:, depth, None] + here
        pays = (places < self.size) & (self.discount * chances * spent > tokens * price)
        taken = np.logical_and.accumulate(pays | ~reached, axis=1) & reached
        return Kept(
            rows=taken[:, :width],
            counts=kept.counts + taken.sum(axis=1),
            tokens=kept.tokens + (chances * taken).sum(axis=1),
            drafting=kept.drafting,
            verifying=kept.verifying,
        )

    def goes_on(self, kept: Kept) -> NDArray[np.bool_]:
        """bool (n,): which trees have something to expand, and room for more."""
        wants: NDArray[np.bool_] = kept.rows.any(axis=1) & (kept.counts < self.size)
        return wants

    def decisions(self, scores: Floats, lengths: NDArray[Any], width: int) -> tuple[Integers, Integers]:
        depths, sizes = np.zeros(len(scores), dtype=np.int64), np.zeros(len(scores), dtype=np.int64)
        going, kept, first = np.arange(len(scores)), self.begun(lengths), 0
        for depth in range(self.max_depth + 1):
            if not len(going):
                break
            end = candidate_count(width, depth)
            kept = self.grown(kept, *ordered(scores[going, first:end]), width, depth)
            depths[going], sizes[going] = depth, kept.counts
            on = self.goes_on(kept)
            going, kept, first = going[on], kept.part(on), end
        return depths, sizes

    def __str__(self) -> str:
        return f"SMART, discount {self.discount:g}, depth up to {self.max_depth}, size up to {self.size}"


@dataclass(slots=True)
class SmartCall:
    """SMART for one call. It keeps nothing between cycles.

    Args:
        rule: what started it.

    Attributes:
        kept: the trees of this cycle; None before its first level. levels: that were looked at.
    """

    rule: Smart
    kept: Kept | None = field(init=False, default=None)
    levels: int = field(init=False, default=0)

    @property
    def max_depth(self) -> int:
        """The rule's."""
        return self.rule.max_depth

    @property
    def max_size(self) -> int:
        """The rule's."""
        return self.rule.size

    def keep(self, rows: list[int]) -> None:
        """Between two cycles there is nothing to drop."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always; a new cycle begins."""
        self.kept, self.levels = None, 0
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether half of the sequences kept something to expand; before the first level nothing is looked at."""
        return depth < 0 or 2 * int(self.rule.goes_on(self.look(tree, depth)).sum()) >= len(tree.roots)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """As many as were kept."""
        return 0 if depth < 0 else round(float(self.look(tree, depth).counts.mean()))

    def look(self, tree: DraftTree, depth: int) -> Kept:
        """The trees with the newest level, which is looked at once."""
        kept = self.rule.begun(tree.lengths.cpu().numpy()) if self.kept is None else self.kept
        if self.levels <= depth:
            kept = self.rule.grown(kept, *ordered(tree.newest_scores.cpu().numpy()), tree.width, depth)
            self.kept, self.levels = kept, depth + 1
        return kept


def ordered(scores: Floats) -> tuple[Integers, Floats]:
    """int64 and float32 (n, c): a level's candidates from the best on, as beams are chosen, and their scores."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return order, np.take_along_axis(scores, order, axis=1)


def smart(costs: str = SHIPPED, discount: float = 0.8, max_depth: int = 12, size: int = 200) -> Smart:
    """The rule with the costs in a file, or those that come with ltd."""
    return Smart(find_costs(costs), discount, max_depth, size)
