"""SVIP (Zhang et al. 2024, arXiv 2411.18462), as the Learning-to-Draft paper runs it on EAGLE-3's tree.

A drafted token is accepted with probability 1 - TV(q, p), the total variation between draft and target, and by
Pinsker's inequality TV <= sqrt(KL(q, p) / 2). With the cross entropy of the two taken to be in proportion to the
draft's own entropy H (nats), what is known before verification is the bound

    P(accept) >= 1 - sqrt(factor * H).

Drafting stops where this bound is below one that is set beforehand. Published are factor 0.15 and bound 0.7: their code
stops where sqrt(0.15 * H) is above 0.3, which is where H is above 0.6 nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ltd.common.argument_types import as_number, as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import FixedSize, StopsBySignal
from ltd.policies.tree_signals import newest_entropy
from ltd.tree import DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class SVIP(StopsBySignal, FixedSize):
    """Stops when the draft is unsure of the best candidate it has just drafted. A batch goes by its mean entropy.

    The entropy is that of the distribution which the best-scored candidate of the newest level was chosen from: the
    root's at level one, else that of its parent's row in the beam.

    Args:
        factor: of the entropy, above 0.
        bound: the least chance of acceptance worth drafting for, within 0 … 1.
        max_depth: expansions after the root's own draft forward, at most.
        size: candidates to verify, without the root.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    factor: float = 0.15
    bound: float = 0.7
    max_depth: int = 12
    size: int = 60

    def __post_init__(self) -> None:
        settle(self, as_whole, "max_depth", "size")
        settle(self, as_number, "factor", "bound")
        check_tree_limits(1, self.max_depth, self.size)
        if not 0 < self.factor < math.inf:
            raise InputError(f"factor is {self.factor}; it must be above 0 and finite, such as 0.15")
        if not 0 <= self.bound <= 1:
            raise InputError(f"bound is {self.bound}; it is a probability, so it must be 0 … 1")

    def signal(self, tree: DraftTree) -> torch.Tensor:
        """The entropy, nats."""
        return newest_entropy(tree)

    def goes_on(self, signal: torch.Tensor) -> torch.Tensor:
        """Whether the draft is sure enough."""
        return 1 - (self.factor * signal).sqrt() >= self.bound

    def __str__(self) -> str:
        return f"SVIP, factor {self.factor:g}, bound {self.bound:g}, depth up to {self.max_depth}, size {self.size}"
