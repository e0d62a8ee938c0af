"""How many words the finished head keeps: the most with which this machine is as fast as it can be.

A draft step reads the output layer once, so every word costs time, and rare words are seldom right. The most frequent
words alone make the same head with a smaller vocabulary; each size decodes held-out questions. Of the sizes that are as
fast as the fastest, but for noise, the largest stays: deeper trees and other texts gain from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.statistics import Statistics
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.drafts.opening import make_draft
from ltd.evaluation.run_config import in_rotation
from ltd.policy_choice import choose_policy
from ltd.target.target import Target

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # of the trained vocabulary
LEAST = 10  # words; the default beam width needs as many
QUESTIONS, NEW_TOKENS = 24, 64
NOISE = 0.02  # speeds that differ by less, relative to the faster, count as equal


def trial_sizes(head: Eagle3Head) -> list[int]:
    """The sizes to try, the smallest first."""
    return sorted({max(LEAST, round(share * head.config.draft_vocab_size)) for share in SHARES})


@dataclass(frozen=True, slots=True)
class Trial:
    """A vocabulary size and what it brought: tokens per cycle and per second of decoding, summed over the questions."""

    words: int
    acceptance_length: float
    tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Rounded plain values, ready for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def keep_words(head: Eagle3Head, words: Tensor) -> Eagle3Head:
    """The same head with only these of its draft words, indices (n,) int64 in ascending order."""
    config = replace(head.config, draft_vocab_size=len(words))
    kept = Eagle3Head(config, own_embedding=head.embed_tokens is not None).to(head.lm_head.weight)
    ids = words + head.d2t[words]
    kept.d2t = ids - torch.arange(len(ids), device=ids.device)
    kept.t2d = torch.zeros_like(head.t2d).index_fill(0, ids, True)
    output = head.lm_head.weight.detach()[words]
    kept.load_state_dict({**head.state_dict(), "lm_head.weight": output, "d2t": kept.d2t, "t2d": kept.t2d})
    return kept


def frequent_words(head: Eagle3Head, tokens: Tensor, count: int) -> Tensor:
    """The draft words (count,) int64, ascending, that are most frequent among tokens (n,) int64; ties to the lower."""
    counts = torch.bincount(tokens, minlength=head.config.vocab_size)
    ids = head.d2t.cpu() + torch.arange(len(head.d2t))
    return counts[ids].argsort(descending=True, stable=True)[:count].sort().values


def try_sizes(
    head: Eagle3Head, target: Target, tokens: Tensor, questions: Sequence[list[int]], sizes: Sequence[int]
) -> list[Trial]:
    """Decode every question greedily with every size, in turns that rotate, and report in the order of `sizes`.

    head: on the target's device and in its type; tokens (n,) int64: what the words are counted in.
    """
    policy = choose_policy("static", lambda: None, target.device).policy
    decoders = [
        Decoder(target, make_draft(keep_words(head, frequent_words(head, tokens, size)), target.embedding), policy)
        for size in sizes
    ]
    found: list[list[Statistics]] = [[] for _ in sizes]
    for decoder in decoders:  # warm up
        decoder.generate(questions[0], max_new_tokens=8)
    turns = in_rotation(questions, range(len(sizes)))
    for question, index in tqdm(turns, desc="choosing the draft vocabulary", unit="answer"):
        answer = decoders[index].generate(question, max_new_tokens=NEW_TOKENS)
        assert isinstance(answer, Generation)
        found[index].append(answer.statistics)
    return [_trial(size, statistics) for size, statistics in zip(sizes, found, strict=True)]


def largest_fast(trials: Sequence[Trial]) -> Trial:
    """The largest of the sizes that are, but for noise, as fast as the fastest."""
    enough = (1 - NOISE) * max(trial.tokens_per_second for trial in trials)
    return max((trial for trial in trials if trial.tokens_per_second >= enough), key=lambda trial: trial.words)


def _trial(size: int, statistics: list[Statistics]) -> Trial:
    gains = [gain for each in statistics for gain in each.gains]
    seconds = sum(each.decode_seconds for each in statistics)
    return Trial(size, sum(gains) / max(1, len(gains)), sum(gains) / seconds if seconds else 0.0)
