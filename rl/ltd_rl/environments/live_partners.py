"""Partners of the policy that learns in a live environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch

from ltd.policies import Policy, PolicyCall
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True)
class Steered:
    """A policy within the limits of an environment, which asks it for one of its two decisions, and drafts always.

    Args:
        partner: the policy.
        max_depth, max_size: the limits.
        sizes: all that are verified, as far as that is known, so that a GPU verifies no more than was asked for.
    """

    partner: Policy
    max_depth: int
    max_size: int
    sizes: tuple[int, ...] = ()

    def start(self, batch: int) -> SteeredCall:
        """The partner in one call, within the same limits."""
        return SteeredCall(self.partner.start(batch), self.max_depth, self.max_size)


@dataclass(frozen=True, slots=True)
class SteeredCall:
    """What `Steered` is in one call. The partner is told all that it would be at inference, so it remembers the same.

    Args:
        partner: the policy, for this call.
        max_depth, max_size: the limits.
    """

    partner: PolicyCall
    max_depth: int
    max_size: int

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.partner.keep(rows)

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always; the partner learns what the last cycle gained."""
        self.partner.speculate(lengths, gained)
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """What the partner says, within its limit."""
        return depth < self.partner.max_depth and self.partner.continue_drafting(tree, depth)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What the partner says."""
        return self.partner.choose_size(tree, depth)


class RandomDepth:
    """The partner that a size policy begins with in the paper: a depth drawn uniformly for every cycle.

    Args:
        environment: whose generator draws.
        max_depth: depths are 1 … max_depth.
    """

    max_size = 0

    def __init__(self, environment: gymnasium.Env[Any, Any], max_depth: int) -> None:
        self.environment, self.max_depth, self.drawn = environment, max_depth, 0

    def start(self, batch: int) -> RandomDepth:
        """Itself: it keeps nothing between cycles."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept of any sequence."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always; draws the cycle's depth."""
        self.drawn = int(self.environment.np_random.integers(1, self.max_depth + 1))
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Up to the depth that was drawn."""
        return depth < self.drawn

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """Nothing; a size policy is there for that."""
        return 0
