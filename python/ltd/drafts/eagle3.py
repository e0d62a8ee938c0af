"""The EAGLE-3 draft: one decoder layer that reads the target's hidden states.

Slot i of its cache holds feature i and the embedding of token i+1, at rotary position i, and predicts token i+2
(reference section 1). Accepted tokens always enter with the target's true features; inside a tree the head feeds on its
own output.
"""

from __future__ import annotations

import torch
from torch import nn

from ltd import ops
from ltd.drafts.head import Eagle3Head
from ltd.errors import InputError
from ltd.kv_cache import KVCache
from ltd.tree import DraftTree

READ_CHUNK = 512


class Eagle3Draft:
    """Drafts with an EAGLE-3 head.

    Args:
        head: the trained head.
        embedding: the target's token embedding, used unless the head brings its own.
        width: beam width W.

    Raises:
        InputError: the head does not fit the target's embedding.
    """

    def __init__(self, head: Eagle3Head, embedding: nn.Embedding, width: int = 10) -> None:
        config = head.config
        if config.vocab_size != embedding.num_embeddings:
            raise InputError(
                f"the head was made for a vocabulary of {config.vocab_size}, the target has "
                f"{embedding.num_embeddings}; use a head trained for this target"
            )
        if config.target_hidden_size != embedding.embedding_dim:
            raise InputError(
                f"the head reads hidden states of width {config.target_hidden_size}, the target's are "
                f"{embedding.embedding_dim} wide; use a head trained for this target"
            )
        if config.draft_vocab_size < width:
            raise InputError(
                f"beam width {width} needs a draft vocabulary at least as large, not {config.draft_vocab_size}"
            )
        self.head, self.width = head, width
        self.embedding = head.embed_tokens if head.embed_tokens is not None else embedding
        self.cache: KVCache | None = None
        self.root_states = torch.empty(0)
        self.beam_states = torch.empty(0)

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The hidden states it reads."""
        return self.head.config.feature_layers

    @property
    def d2t(self) -> torch.Tensor | None:
        """int64 (Vd,) offsets to the target's ids; None if the head's vocabulary is the target's."""
        return self.head.d2t

    def start(self, batch: int, capacity: int) -> None:
        """Forgets all sequences and makes room for B new ones."""
        if self.cache is None or not self.cache.fits(batch, capacity):
            config, weight = self.head.config, self.head.norm.weight
            self.cache = None  # let the old one go first
            self.cache = KVCache(
                1, batch, config.num_key_value_heads, capacity, config.head_dim, weight.dtype, weight.device
            )
        self.cache.clear()

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        assert self.cache is not None
        self.cache.keep(rows)

    def read_prompt(self, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Reads features (1, n, F * Ht) and the n tokens after them into one sequence; n may be 0."""
        assert self.cache is not None and features is not None
        if len(tokens) == 0:
            return
        view = self.cache.row(row)
        for chunk, following in zip(
            features.split(READ_CHUNK, dim=1), tokens[None].split(READ_CHUNK, dim=1), strict=True
        ):
            self._read(view, self.head.fuse(chunk), following)
            view.advance([following.shape[1]])
        counts = [0] * self.cache.batch
        counts[row] = len(tokens)
        self.cache.advance(counts)

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Reads the last cycle's gain with its true features; logits (B, 1, Vd) for the root's children."""
        assert self.cache is not None and features is not None
        states = self._read(self.cache, self.head.fuse(features), tokens)
        self.cache.advance(counts)
        last = torch.tensor(counts, device=states.device)[:, None, None] - 1
        self.root_states = states.gather(1, last.expand(-1, 1, states.shape[2]))
        return self.head.logits(self.root_states)

    def expand(self, tree: DraftTree) -> torch.Tensor:
        """Logits (B, W, Vd) for the children of the newest beam."""
        assert self.cache is not None
        level, cache = tree.levels - 1, self.cache
        if level == 0:
            states = self.root_states.expand(-1, self.width, -1)
        else:
            states = self.beam_states.gather(1, tree.beam_rows[:, :, None].expand_as(self.beam_states))
        # The root's own forward stood at position length - 1; every level stands one further.
        positions = (cache.lengths.long() + level)[:, None].expand(-1, self.width)
        masks, rows = tree.beam_masks[:, level], (level + 1) * self.width

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            cache.write(0, key, value, first_row=level * self.width)
            scale = float(query.shape[-1] ** -0.5)
            return ops.tree_attention(
                query, cache.keys[0], cache.values[0], cache.lengths, rows, masks, positions, scale, 0
            )

        self.beam_states = self.head(self.embedding(tree.beam_tokens), states, positions, attend)
        return self.head.logits(self.beam_states)

    def _read(self, cache: KVCache, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """One forward over a chain behind each sequence's prefix; writes its rows, does not advance."""
        count = tokens.shape[1]
        positions = cache.lengths.long()[:, None] + torch.arange(count, device=tokens.device)

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            cache.write(0, key, value)
            scale = float(query.shape[-1] ** -0.5)
            return ops.tree_attention(
                query, cache.keys[0], cache.values[0], cache.lengths, count, None, positions, scale, 0
            )

        output: torch.Tensor = self.head(self.embedding(tokens), states, positions, attend)
        return output
