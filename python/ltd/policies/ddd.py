"""Dynamic depth decoding (Brown et al. 2024), as the Learning-to-Draft paper runs it on EAGLE-3's tree.

Drafting stops where the beam, all of it together, has become unlikely: with s_1 … s_W the cumulative log-probabilities
of the newest beam under the draft,

    stop if log(e^s_1 + … + e^s_W) < floor,

which is looked at after a few levels only, as looking costs time. The paper gives the floor -0.3 and levels 5, 7, 9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ltd.common.argument_types import as_number, as_whole, as_wholes, settle
from ltd.errors import InputError
from ltd.policies.base import FixedSize, StopsBySignal
from ltd.tree import MAX_DEPTH, DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class DDD(StopsBySignal, FixedSize):
    """Stops when the newest beam's total probability is low. A batch goes by the mean of its logarithms.

    Args:
        floor: of the logarithm of the beam's total probability, nats.
        levels: where to look, ascending. They count all levels of candidates, the root's children being level 1: level
            5 is there after 4 expansions. Levels beyond the deepest tree's are never reached.
        max_depth: expansions after the root's own draft forward, at most.
        size: candidates to verify, without the root.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    floor: float = -0.3
    levels: tuple[int, ...] = (5, 7, 9)
    max_depth: int = 12
    size: int = 60

    def __post_init__(self) -> None:
        settle(self, as_whole, "max_depth", "size")
        settle(self, as_number, "floor")
        settle(self, as_wholes, "levels")
        check_tree_limits(1, self.max_depth, self.size)
        if not math.isfinite(self.floor):
            raise InputError(f"floor is {self.floor}; it must be a finite number of nats, such as -0.3")
        levels = self.levels
        ascending = list(levels) == sorted(set(levels))
        if not levels or not ascending or levels[0] < 1 or levels[-1] > MAX_DEPTH:
            shown = "/".join(map(str, levels)) or "none"
            raise InputError(f"levels are {shown}; they must ascend within 1 … {MAX_DEPTH}, such as 5/7/9")

    def signal(self, tree: DraftTree) -> torch.Tensor:
        """The logarithm of the newest beam's total probability."""
        return tree.scores.gather(1, tree.beam_nodes[:, tree.levels - 1].long()).logsumexp(dim=1)

    def goes_on(self, signal: torch.Tensor) -> torch.Tensor:
        """Whether the beam is likely enough."""
        return signal >= self.floor

    def looks(self, levels: int) -> bool:
        """At its levels only."""
        return levels in self.levels

    def __str__(self) -> str:
        looks = ", ".join(map(str, self.levels))
        return f"DDD, floor {self.floor:g} after levels {looks}, depth up to {self.max_depth}, size {self.size}"
