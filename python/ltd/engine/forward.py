"""What runs a model's layers: the protocol, what goes into a forward besides tokens, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import PackedEmbedding


@dataclass(frozen=True)
class TreeBlock:
    """The places of the tokens of one forward, behind each sequence's prefix.

    Attributes:
        lengths: int32 (B,), prefix rows in the cache.
        positions: int64 (B, N), of the tokens.
        masks: int64 (B, N, words) bit-packed ancestors, or None for a chain (each token sees those before it).
        first_row: tree rows that are in the cache already, which `masks` speaks of too; these tokens come after them.
        read_with: tokens of the prompt that these are a part of, for the rotary types that look at the whole of what is
            read at a time; 0 = every token is one that was decoded, and as if it had been read by itself.
    """

    lengths: torch.Tensor
    positions: torch.Tensor
    masks: torch.Tensor | None
    first_row: int = 0
    read_with: int = 0

    @cached_property
    def rows(self) -> torch.Tensor:
        """int64 (B, N): the rows of the cache that the tokens' keys and values go to."""
        if self.masks is None and self.first_row == 0:
            return self.positions  # a chain's places in the sequence and in the cache are the same
        places = torch.arange(self.first_row, self.first_row + self.positions.shape[1], device=self.lengths.device)
        return self.lengths[:, None] + places

    @classmethod
    def chain(cls, lengths: torch.Tensor, count: int, read_with: int = 0) -> TreeBlock:
        """The next `count` tokens of every sequence, one after the other."""
        positions = lengths[:, None] + torch.arange(count, device=lengths.device)
        return cls(lengths, positions, None, read_with=read_with)


@dataclass(frozen=True, slots=True)
class Verified:
    """What one forward says.

    Attributes:
        logits: (B, kept, vocabulary) in the model's type.
        features: (B, N, F * hidden), the tapped hidden states side by side, in the order asked for; None if none is.
    """

    logits: torch.Tensor
    features: torch.Tensor | None


class Forward(Protocol):
    """Runs the layers of a causal LM over keys and values of ours.

    A session is the `KVCache` that it opens. It belongs to whoever opened it. A forward keeps nothing between calls:
    any number of sessions may take turns, and a model that is not ours is as it was after every call.
    """

    @property
    def is_ours(self) -> bool:
        """Whether nobody else can change the weights or the layers, so that what was recorded of them stays right."""

    @property
    def is_row_exact(self) -> bool:
        """Whether a token's keys and values are the same bit for bit whatever is computed beside it, whether it belongs
        to a prompt or was decoded. If not, they are where the same tokens were read in parts that are cut alike."""

    @property
    def config(self) -> Any:
        """The model's `transformers` configuration."""

    @property
    def device(self) -> torch.device:
        """Where tokens and blocks must be."""

    @property
    def embedding(self) -> nn.Embedding | PackedEmbedding:
        """The token embedding, int64 (…) → (…, hidden), whose weight has the activations' type."""

    @property
    def norm(self) -> nn.Module:
        """The final norm, from hs[layers] to what the output layer reads."""

    def follow(self) -> None:
        """Takes notice of what was changed in a model that is not ours; asked for when a session begins."""

    def state(self) -> object | None:
        """What keys and values depend on beside the tokens, weights above all, as far as it can change.

        It takes about as long as to read all weights. While it is the same, what was read before is what would be read
        now. None is not known.
        """

    def reads_alike(self, count: int, other: int) -> bool:
        """Whether prompts of so many tokens are read alike as far as their tokens are the same."""

    def open(self, batch: int, capacity: int) -> KVCache:
        """A session: an empty cache for so many sequences of so many rows, the largest tree included."""

    def __call__(
        self,
        tokens: torch.Tensor,
        block: TreeBlock,
        cache: KVCache,
        logits_to_keep: int = 0,
        taps: tuple[int, ...] = (),
    ) -> Verified:
        """One forward over a tree or a chain behind each sequence's prefix; writes its rows, does not advance.

        Args:
            tokens: int64 (B, N).
            block: their places.
            cache: a session of this forward, or rows of one; read and written.
            logits_to_keep: only the last so many tokens get logits; 0 = all.
            taps: hidden states wanted, as indices k of hs[k] = the input of layer k (hs[layers] = the last layer's
                output before the final norm).
        """
