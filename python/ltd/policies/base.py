"""What every policy answers."""

from __future__ import annotations

from typing import Protocol

from ltd.tree import DraftTree


class Policy(Protocol):
    """Two questions per cycle. A wrong answer can cost speed, never correctness.

    Attributes:
        max_depth: the deepest tree it may ask for, 0 … 12 expansions after the root's own draft forward.
        max_size: the most candidates it may send to verification, 0 … 512.
    """

    @property
    def max_depth(self) -> int: ...

    @property
    def max_size(self) -> int: ...

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether to expand once more, after `depth` expansions; asked at every level below `max_depth`.

        One answer serves the whole batch. `tree.lengths` are the context lengths.
        """
        ...

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """How many candidates to verify, asked once when drafting has stopped at `depth`."""
        ...
