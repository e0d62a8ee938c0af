"""GammaTune (Gautam et al. 2025, arXiv 2504.00030), as the Learning-to-Draft paper runs it on EAGLE-3's tree.

The depth follows what was accepted lately: with a the drafted tokens that the last cycle's verification accepted,

    average <- (1 - rate) * average + rate * a,        next depth = average, rounded, within depth/2 … 1.5 * depth,

and rate = 0.2. An average of what is accepted is never above what was drafted, so where the whole depth of the tree was
accepted, a counts as one token more: the target might have gone on, and the depth can grow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ltd.common.argument_types import as_number, as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import FixedSize
from ltd.tree import MAX_DEPTH, DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class GammaTune:
    """A depth that follows the accepted lengths. A batch goes by the mean of its sequences.

    Args:
        depth: the first cycle's expansions after the root's own draft forward; half of it (rounded up) and half more
            (rounded down, at most 12) bound the later ones.
        rate: weight of the last cycle in the average, above 0 and at most 1.
        size: candidates to verify, without the root.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    depth: int = 8
    rate: float = 0.2
    size: int = 60

    def __post_init__(self) -> None:
        settle(self, as_whole, "depth", "size")
        settle(self, as_number, "rate")
        check_tree_limits(1, self.depth, self.size)
        if not 0 < self.rate <= 1:
            raise InputError(f"rate is {self.rate}; it must be above 0 and at most 1, such as 0.2")

    @property
    def min_depth(self) -> int:
        """Half the depth, rounded up."""
        return (self.depth + 1) // 2

    @property
    def max_depth(self) -> int:
        """One and a half times the depth, rounded down, at most 12."""
        return min(self.depth * 3 // 2, MAX_DEPTH)

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self, batch: int) -> GammaTuneCall:
        """A call whose average begins at `depth`."""
        return GammaTuneCall(self)

    def __str__(self) -> str:
        return f"GammaTune, depth {self.min_depth} to {self.max_depth}, rate {self.rate:g}, size {self.size}"


@dataclass(slots=True)
class GammaTuneCall(FixedSize):
    """GammaTune for one call. Its average is of the whole batch: nothing of it belongs to one sequence.

    Args:
        rule: what started it.

    Attributes:
        average: of the accepted drafted tokens.
        drafted: the depth of the tree that is being verified; None without one.
    """

    rule: GammaTune
    size: int = field(init=False)
    average: float = field(init=False)
    drafted: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.size, self.average = self.rule.size, float(self.rule.depth)

    @property
    def max_depth(self) -> int:
        """The rule's."""
        return self.rule.max_depth

    @property
    def depth(self) -> int:
        """This cycle's: the average, rounded (a half up), within the bounds."""
        return max(self.rule.min_depth, min(int(self.average + 0.5), self.rule.max_depth))

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always; takes note of what was accepted, which is what was gained without the target's own token."""
        if self.drafted is not None:
            levels = self.drafted + 1
            accepted = [tokens - 1 + (tokens - 1 >= levels) for tokens in gained]
            self.average += self.rule.rate * (sum(accepted) / len(accepted) - self.average)
            self.drafted = None
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to this cycle's depth."""
        return depth < self.depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size; takes note of the depth."""
        self.drafted = depth
        return self.size
