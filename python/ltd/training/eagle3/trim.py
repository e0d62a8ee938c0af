"""How many words the finished head keeps: the most with which this machine is as fast as it can be.

A draft step reads the output layer once, so every word costs time, and rare words are seldom right. The most frequent
words alone make the same head with a smaller vocabulary; each size decodes held-out questions. Of the sizes that are as
fast as the fastest, but for noise, the largest stays: deeper trees and other texts gain from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltd.drafts.eagle3.head import Eagle3Head
from ltd.training.eagle3.trials import NOISE, Trial
from ltd.training.eagle3.words import with_words, word_ids

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the trained vocabulary
LEAST = 10  # words; the default beam width needs as many


def trial_sizes(head: Eagle3Head) -> list[int]:
    """The sizes to try, the smallest first."""
    return sorted({max(LEAST, round(share * head.config.draft_vocab_size)) for share in SHARES})


def keep_words(head: Eagle3Head, words: Tensor) -> Eagle3Head:
    """The same head with only these of its draft words, indices (n,) int64 in ascending order."""
    return with_words(head, word_ids(head)[words], head.lm_head.weight.detach()[words])


def frequent_words(head: Eagle3Head, tokens: Tensor, count: int) -> Tensor:
    """The draft words (count,) int64, ascending, that are most frequent among tokens (n,) int64; ties to the lower."""
    counts = torch.bincount(tokens, minlength=head.config.vocab_size)
    return counts[word_ids(head).cpu()].argsort(descending=True, stable=True)[:count].sort().values


def largest_fast(trials: Sequence[Trial]) -> Trial:
    """The largest of the sizes that are, but for noise, as fast as the fastest."""
    enough = (1 - NOISE) * max(trial.tokens_per_second for trial in trials)
    return max((trial for trial in trials if trial.tokens_per_second >= enough), key=lambda trial: trial.words)
