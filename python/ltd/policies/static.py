"""The same depth and size in every cycle, as EAGLE-3 does."""

from __future__ import annotations

from dataclasses import dataclass

from ltd.common.argument_types import as_whole, settle
from ltd.policies.base import FixedSize, check_width, of_width
from ltd.tree import DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class Static(FixedSize):
    """A fixed (D, V).

    Args:
        depth: expansions after the root's own draft forward; 8 is the default of EAGLE-3 in the paper (section 5).
        size: candidates to verify, without the root; 60 is its default.
        width: beam width; None is the draft's own, which is 10 unless it was made with another, as in EAGLE-3.

    Raises:
        InputError: a number out of range, or something else than a number.
    """

    depth: int = 8
    size: int = 60
    width: int | None = None

    def __post_init__(self) -> None:
        settle(self, as_whole, "depth", "size")
        if self.width is not None:
            settle(self, as_whole, "width")
        check_width(self.width)
        check_tree_limits(self.width or 1, self.depth, self.size)

    @property
    def max_depth(self) -> int:
        """The depth."""
        return self.depth

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to the depth."""
        return depth < self.depth

    def __str__(self) -> str:
        return f"static, depth {self.depth}, size {self.size}{of_width(self.width)}"
