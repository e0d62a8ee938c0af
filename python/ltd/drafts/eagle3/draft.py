"""The EAGLE-3 draft: one decoder layer that reads the target's hidden states.

Slot i of its cache holds feature i and the embedding of token i+1, at rotary position i, and predicts token i+2.
Accepted tokens always enter with the target's true features; inside a tree the head feeds on its own output.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ltd.drafts.base import DEFAULT_WIDTH, Origin
from ltd.drafts.eagle3.forward import HeadForward, HeadLayers
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.forward import TreeBlock
from ltd.engine.kept_texts import ReadText
from ltd.engine.kv_cache import CacheRows, KVCache
from ltd.engine.packed_layers import PackedEmbedding
from ltd.engine.pool import CachePool
from ltd.errors import InputError
from ltd.tree import DraftTree, check_tree_limits

READ_CHUNK = 512


class Eagle3Draft:
    """Drafts with an EAGLE-3 head.

    Args:
        head: the trained head.
        embedding: the target's token embedding, used unless the head brings its own.
        width: beam width W.
        forward: runs the head; None is its own layer.
        origin: where the head came from, if that is known.

    Raises:
        InputError: the head does not fit the target's embedding.
    """

    def __init__(
        self,
        head: Eagle3Head,
        embedding: nn.Embedding | PackedEmbedding,
        width: int = DEFAULT_WIDTH,
        forward: HeadForward | None = None,
        origin: Origin | None = None,
    ) -> None:
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
        check_words(head, width)
        self.head, self.width, self.origin = head, width, origin
        self.forward: HeadForward = HeadLayers(head) if forward is None else forward
        self.embedding = head.embed_tokens if head.embed_tokens is not None else embedding
        self.pool = CachePool(self._open)
        self._siblings: dict[int, Eagle3Draft] = {width: self}

    def with_width(self, width: int) -> Eagle3Draft:
        """See `ResizableDraft`. They share weights and memory."""
        if width not in self._siblings:
            check_tree_limits(width, 0, 0)
            check_words(self.head, width)
            sibling = copy.copy(self)
            sibling.width = width
            self._siblings[width] = sibling
        return self._siblings[width]

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The hidden states it reads."""
        return self.head.config.feature_layers

    @property
    def d2t(self) -> torch.Tensor | None:
        """int64 (Vd,) offsets to the target's ids; None if the head's vocabulary is the target's."""
        return self.head.d2t

    @property
    def state_size(self) -> int:
        """The head's width H."""
        return self.head.config.hidden_size

    def start(self, batch: int, capacity: int) -> Eagle3Session:
        """See `Draft`."""
        return Eagle3Session(self, self.pool.take(batch, capacity))

    def _open(self, batch: int, capacity: int) -> KVCache:
        config, weight = self.head.config, self.head.norm.weight
        return KVCache(1, batch, config.num_key_value_heads, capacity, config.head_dim, weight.dtype, weight.device)


def check_words(head: Eagle3Head, width: int) -> None:
    """Raises InputError if a head knows fewer words than a beam of this width proposes at a node."""
    if head.config.draft_vocab_size < width:
        raise InputError(
            f"beam width {width} needs a draft vocabulary at least as large, not {head.config.draft_vocab_size}"
        )


@dataclass(frozen=True, slots=True)
class ReadSlots:
    """`ReadText` of an EAGLE-3 head.

    Attributes:
        rows: one for every token but the first.
    """

    rows: CacheRows

    @property
    def length(self) -> int:
        """See `ReadText`."""
        return len(self.rows) + 1

    @property
    def nbytes(self) -> int:
        """See `ReadText`."""
        return self.rows.nbytes


class Eagle3Session:
    """Sequences that an EAGLE-3 head has read.

    Attributes:
        root_states: (B, 1, H), the head's output at the roots.
        beam_states: (B, W, H), its output at the beam that was last expanded.
    """

    def __init__(self, draft: Eagle3Draft, cache: KVCache) -> None:
        self.draft, self.cache = draft, cache
        self._make_buffers(cache.batch)

    def _make_buffers(self, batch: int) -> None:
        """What is computed anew in every cycle has its place in memory from the beginning."""
        cache, width = self.cache, self.draft.width
        # A level's states come from those of the level before: two places, by turns.
        beams = cache.keys.new_zeros(2, batch, width, self.draft.state_size)
        self._beams: tuple[torch.Tensor, torch.Tensor] = (beams[0], beams[1])
        self.root_states, self.beam_states = beams.new_zeros(batch, 1, beams.shape[3]), self._beams[0]
        self._positions = torch.zeros(batch, width, dtype=torch.int64, device=cache.lengths.device)
        self._last = torch.zeros(batch, dtype=torch.int64, device=cache.lengths.device)

    def close(self) -> None:
        """See `DraftSession`."""
        self.draft.pool.give_back(self.cache)

    def restart(self, believed: int = 0) -> None:
        """See `RecordedDraftSession`."""
        self.cache.clear(believed)

    def refill(self, rows: list[int]) -> None:
        """See `RecordedDraftSession`."""
        self.cache.refill(rows)

    def longest(self, tree_rows: int) -> int:
        """See `RecordedDraftSession`."""
        return self.cache.longest(tree_rows)

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.cache.keep(rows)
        self._make_buffers(len(rows))

    def spread(self) -> None:
        """Makes every sequence a copy of the first."""
        self.cache.spread()

    def rewind(self, lengths: list[int]) -> None:
        """Goes back: sequence b forgets all but its first lengths[b] tokens."""
        self.cache.rewind(slots(lengths))

    @property
    def bytes_per_token(self) -> int:
        """See `ReusableDraftSession`."""
        return self.cache.row_bytes

    def copy_read(self, row: int, length: int) -> ReadSlots:
        """See `ReusableDraftSession`."""
        return ReadSlots(self.cache.copy_rows(row, min(length - 1, self.cache.host_lengths[row])))

    def take_read(self, row: int, text: ReadText, length: int) -> None:
        """See `ReusableDraftSession`."""
        assert isinstance(text, ReadSlots)
        self.cache.take_rows(row, text.rows, length - 1)

    def pretend_read(self, lengths: list[int]) -> None:
        """For timing alone: the cache's rows hold some text's keys and values, and time does not depend on which."""
        self.cache.set_lengths(slots(lengths))

    def read_prompt(self, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Reads tokens (n,) but the first into one sequence, each with the feature (1, n, F * Ht) before it."""
        assert features is not None
        if len(tokens) == 1:
            return
        view = self.cache.row(row)
        for chunk, following in zip(
            features[:, :-1].split(READ_CHUNK, dim=1), tokens[None, 1:].split(READ_CHUNK, dim=1), strict=True
        ):
            self._read(view, chunk, following, kept=0)
            view.advance([following.shape[1]])
        self.cache.advance_row(row, len(tokens) - 1)

    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None) -> torch.Tensor:
        """Reads the last cycle's gain with its true features; logits (B, 1, Vd) for the root's children."""
        assert features is not None
        if gained is None:
            states, logits = self._read(self.cache, features, tokens, kept=1)
            self.root_states.copy_(states[:, -1:])
            self.cache.grow(tokens.shape[1])
            return logits
        # What stands behind a sequence's gain is read as well: the rows that it leaves are overwritten by the tree.
        states, logits = self._read(self.cache, features, tokens, kept=tokens.shape[1])
        last = torch.sub(gained, 1, out=self._last)[:, None, None]
        torch.gather(states, 1, last.expand_as(self.root_states), out=self.root_states)
        self.cache.grow(gained)
        return logits.gather(1, last.expand(-1, 1, logits.shape[2]))

    def note(self, counts: list[int]) -> None:
        """See `DraftSession`."""
        self.cache.note(counts)

    def expand(self, tree: DraftTree) -> torch.Tensor:
        """Logits (B, W, Vd) for the children of the newest beam."""
        level, cache = tree.levels - 1, self.cache
        states, before = self._beams[level % 2], self._beams[(level + 1) % 2]
        if level == 0:
            states.copy_(self.root_states.expand_as(states))
        else:
            torch.gather(before, 1, tree.beam_rows[:, :, None].expand_as(states), out=states)
        # The root's own forward stood at position length - 1; every level stands one further.
        positions = torch.add(cache.lengths[:, None].expand_as(self._positions), level, out=self._positions)
        block = TreeBlock(cache.lengths, positions, tree.beam_masks[:, level], first_row=level * self.draft.width)
        embeddings = self.draft.embedding(tree.beam_tokens)
        self.beam_states, logits = self.draft.forward.step(embeddings, states, block, cache, self.draft.width)
        return logits

    def _read(
        self, cache: KVCache, features: torch.Tensor, tokens: torch.Tensor, kept: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward over a chain behind each sequence's prefix; writes its rows, does not advance."""
        block = TreeBlock.chain(cache.lengths, tokens.shape[1])
        return self.draft.forward.step(
            self.draft.embedding(tokens), self.draft.forward.fuse(features), block, cache, kept
        )


def slots(lengths: list[int]) -> list[int]:
    """How many slots hold texts of so many tokens: every token but the first has one, with the feature before it."""
    return [length - 1 for length in lengths]
