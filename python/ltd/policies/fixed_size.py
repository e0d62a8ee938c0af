"""What policies have in common that always draft, keep nothing between cycles and verify the same size."""

from __future__ import annotations

from typing import TypeVar

import torch

from ltd.tree import DraftTree

Kind = TypeVar("Kind", bound="FixedSize")


class FixedSize:
    """A policy that is its own call; what inherits it decides how deep to draft.

    Attributes:
        size: candidates to verify, without the root.
    """

    __slots__ = ()

    size: int

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self: Kind, batch: int) -> Kind:
        """Itself: it keeps nothing."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept of any sequence."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always."""
        return True

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size."""
        return self.size
