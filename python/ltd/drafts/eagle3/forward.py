"""What runs a draft head: the protocol, and the head's own layer in PyTorch, on any device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.attention import attend_tree
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache


class HeadForward(Protocol):
    """Runs a draft head over a cache of its one layer, which belongs to the caller; keeps nothing between two calls."""

    def fuse(self, features: Tensor) -> Tensor:
        """The target's features (B, N, F * Ht) → states (B, N, H)."""

    def step(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        """One draft step behind each sequence's prefix; writes its rows, does not advance.

        Args:
            embeddings: (B, N, H) of the token after each state's.
            states: (B, N, H), contiguous; overwritten with the next ones.
            block: the states' places.
            cache: of one layer; read and written.
            kept: how many of the last rows get logits, 0 … N.

        Returns:
            the states, which are now the next ones, and logits (B, kept, Vd).
        """


class HeadLayers:
    """`HeadForward` of a head as it is."""

    def __init__(self, head: Eagle3Head) -> None:
        self.head = head

    def fuse(self, features: Tensor) -> Tensor:
        """See `HeadForward`."""
        return self.head.fuse(features)

    def step(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        """See `HeadForward`."""

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return attend_tree(query, key, value, 0, cache, block, float(query.shape[-1] ** -0.5))

        states.copy_(self.head(embeddings, states, block.positions, attend))
        return states, self.head.logits(states[:, states.shape[1] - kept :])
