"""The budget rule of serving engines: verify as many candidates as promise the most tokens per second.

vLLM's adaptive verification (its documentation and pull request 47808, 2026) scores every drafted position by the
running product of the draft's confidences on the way to it, takes the best first, and with scores p_1 >= p_2 >= …
verifies

    argmax over V of (1 + p_1 + … + p_V) / (c_draft + c_verify(V)),        of equals the smallest V,

with costs that were measured when the engine started. D-Cut (arXiv 2607.14647) ranks likewise.

There the drafts are chains, the budget is shared by a batch's requests, and the confidences come from a trained head or
are fitted while serving. Here the candidates are a tree's, whose running products are the draft's own probabilities,
and the depth is fixed, as the length of those chains is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Integers
from ltd.policies.cost_aware import SizedByCost, ratios
from ltd.policies.cycle_costs_file import SHIPPED, find_costs


@dataclass(frozen=True, slots=True, eq=False)
class Budget(SizedByCost):
    """Verifies as many as promise the most tokens per second."""

    def best_sizes(self, chances: Doubles, lengths: NDArray[Any], depth: int) -> Integers:
        """Those with the best ratio."""
        costs = self.costs
        drafting = costs.at(costs.drafting[depth : depth + 1], lengths)[:, 0]
        best: Integers = ratios(chances, drafting, costs.at(costs.verifying, lengths)).argmax(axis=1)
        return best

    def __str__(self) -> str:
        return f"budget by measured costs, depth {self.max_depth}, size up to {self.size}"


def budget(costs: str = SHIPPED, max_depth: int = 8, size: int = 240) -> Budget:
    """The rule with the costs in a file, or those that come with ltd."""
    return Budget(find_costs(costs), max_depth, size)
