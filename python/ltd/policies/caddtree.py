"""CaDDTree's cost-aware budget (Zhang et al. 2026, arXiv 2606.01813), on the trees of EAGLE-3.

Candidates join a tree in the order of their probabilities p_1 >= p_2 >= …, as long as each raises the expected tokens
per second,

    (1 + p_1 + … + p_(V+1)) / (c_draft + c_verify(V + 1; L))  >  (1 + p_1 + … + p_V) / (c_draft + c_verify(V; L)),

with c_verify the convex regression of what was measured at the context length L: over a convex cost the ratio falls for
good once it falls, so the first candidate that does not help is where the best tree ends.

The paper's draft proposes a block in one pass, so its c_draft is one number; here it is that of a fixed depth. The
regression is over all sizes with known costs, not only the measured ones, and weighs them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Integers
from ltd.policies.cost_aware import SizedByCost, ratios
from ltd.policies.cycle_costs_file import SHIPPED, find_costs


@dataclass(frozen=True, slots=True, eq=False)
class CaDDTree(SizedByCost):
    """Verifies as many as raise the tokens per second one by one."""

    def best_sizes(self, chances: Doubles, lengths: NDArray[Any], depth: int) -> Integers:
        """Up to the first that does not raise the ratio."""
        costs = self.costs
        drafting = costs.at(costs.drafting[depth : depth + 1], lengths)[:, 0]
        found = ratios(chances, drafting, costs.at(costs.convex, lengths))
        count: Integers = np.logical_and.accumulate(found[:, 1:] > found[:, :-1], axis=1).sum(axis=1)
        return count

    def __str__(self) -> str:
        return f"CaDDTree's budget, depth {self.max_depth}, size up to {self.size}"


def caddtree(costs: str = SHIPPED, max_depth: int = 8, size: int = 240) -> CaDDTree:
    """The rule with the costs in a file, or those that come with ltd."""
    return CaDDTree(find_costs(costs), max_depth, size)
