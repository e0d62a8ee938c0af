"""The draft vocabulary: the target's words that the draft can propose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltd.errors import InputError


@dataclass(frozen=True, slots=True)
class DraftVocabulary:
    """`target_ids` (Vd,) int64; `coverage`, the share of the counted tokens that are in it."""

    target_ids: Tensor
    coverage: float

    def mappings(self, vocab_size: int) -> tuple[Tensor, Tensor]:
        """d2t (Vd,) int64, offsets from draft to target id, and t2d (V,) bool, membership (EAGLE-3's own layout)."""
        t2d = torch.zeros(vocab_size, dtype=torch.bool)
        t2d[self.target_ids] = True
        return self.target_ids - torch.arange(len(self.target_ids)), t2d


def known_vocabulary(target_ids: Tensor, tokens: Tensor) -> DraftVocabulary:
    """The words that a draft has already, `target_ids` (Vd,) int64, and what they cover of `tokens` (n,) int64."""
    return DraftVocabulary(target_ids, float(torch.isin(tokens, target_ids).sum() / max(1, len(tokens))))


def choose_vocabulary(
    tokens: Tensor, vocab_size: int, draft_vocab_size: int, known: Tensor | None = None
) -> DraftVocabulary:
    """The most frequent of `tokens` (n,) int64, ties to the smaller id, filled up with the smallest unused ids.

    Of words that are as frequent, unused ones too, the `known` ones (m,) int64 come first.
    Raises InputError if the draft vocabulary is larger than the target's.
    """
    if draft_vocab_size > vocab_size:
        raise InputError(f"draft_vocab_size is {draft_vocab_size}, but the target has only {vocab_size} words")
    counts = torch.bincount(tokens, minlength=vocab_size)
    ranks = 2 * counts
    if known is not None:
        ranks[known] += 1
    ids = ranks.argsort(descending=True, stable=True)[:draft_vocab_size].sort().values
    return DraftVocabulary(ids, float(counts[ids].sum() / max(1, len(tokens))))
