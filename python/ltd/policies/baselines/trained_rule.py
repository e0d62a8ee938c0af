"""What the rules with a trained network have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ltd.common.argument_types import as_number, as_whole, settle
from ltd.policies.base import MadeForHead
from ltd.policies.tree_signals import check_threshold
from ltd.tree import check_tree_limits


@dataclass(frozen=True, slots=True, eq=False)
class TrainedRule(MadeForHead):
    """A rule that compares what a network makes of a draft with a threshold.

    Args:
        network: gives chances.
        threshold: of them, 0 … 1.
        max_depth: the deepest tree.
        size: the most candidates to verify.
        head_sha256: hash of the draft head that it was trained for; None fits any.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    network: nn.Module
    threshold: float
    max_depth: int
    size: int
    head_sha256: str | None = None

    def __post_init__(self) -> None:
        settle(self, as_whole, "max_depth", "size")
        settle(self, as_number, "threshold")
        check_tree_limits(1, self.max_depth, self.size)
        check_threshold(self.threshold)
