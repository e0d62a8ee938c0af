"""The same depth and size in every cycle, as EAGLE-3 does."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd.tree import DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class Static:
    """A fixed (D, V).

    Args:
        depth: expansions after the root's own draft forward; 8 is the default of EAGLE-3 in the paper (section 5).
        size: candidates to verify, without the root; 60 is its default.

    Raises:
        InputError: a number out of range.
    """

    depth: int = 8
    size: int = 60

    def __post_init__(self) -> None:
        check_tree_limits(1, self.depth, self.size)

    @property
    def max_depth(self) -> int:
        """The depth."""
        return self.depth

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self, batch: int) -> Static:
        """Itself: it keeps nothing."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept of any sequence."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always."""
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to the depth."""
        return depth < self.depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size."""
        return self.size

    def __str__(self) -> str:
        return f"static, depth {self.depth}, size {self.size}"
