"""What every draft can do."""

from __future__ import annotations

from typing import Protocol

import torch

from ltd.tree import DraftTree


class Draft(Protocol):
    """Proposes the candidates of a tree, level by level.

    Attributes:
        width: the beam width W it drafts with.
        feature_layers: the target's hidden states it reads, as indices k of hs[k] = the input of layer k.
        d2t: int64 (Vd,) offsets from its ids to the target's, or None if they are the same.
        root_states: floating type (B, 1, H), after `begin` until the next one: its states at the roots, which all
            candidates grow from, for policies to read; None of a draft without any.
        beam_states: floating type (B, W, H), after `expand`: its states at the beam that it expanded; None of a draft
            without any.
    """

    @property
    def width(self) -> int: ...

    @property
    def feature_layers(self) -> tuple[int, ...]: ...

    @property
    def d2t(self) -> torch.Tensor | None: ...

    @property
    def root_states(self) -> torch.Tensor | None: ...

    @property
    def beam_states(self) -> torch.Tensor | None: ...

    def start(self, batch: int, capacity: int) -> None:
        """Forgets all sequences and makes room for B new ones of so many rows, the largest tree included."""
        ...

    def read_prompt(self, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Reads a prompt into one sequence: features (1, n, F * Ht) and the n tokens that follow them."""
        ...

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Reads what the last cycle gained and drafts from the root.

        Args:
            features: (B, n, F * Ht), the target's true features of the newly committed tokens.
            tokens: int64 (B, n), the token that follows each of them; the last valid one is the root.
            counts: valid entries per sequence, 1 … n.

        Returns:
            draft logits (B, 1, Vd) for the root's children.
        """
        ...

    def expand(self, tree: DraftTree) -> torch.Tensor:
        """Draft logits (B, W, Vd) for the children of the tree's newest beam."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        ...
