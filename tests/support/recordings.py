"""Small recordings: a draft that gets long paths accepted, and what is recorded of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM

from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.drafts.eagle3.draft import Eagle3Draft, Eagle3Session
from ltd.loading import load as load_decoder
from ltd.policies import Learned, Policy
from ltd.policies.learned.policy import LearnedCall
from ltd.tree import DraftTree
from ltd_rl.traces.format import RecordedGeneration, Traces
from ltd_rl.traces.record import RecordConfig
from ltd_rl.traces.replay import Cycles

DEPTH, NEW_TOKENS = 4, 40
QUESTIONS = {"first": [["Hi there"], ["What now?"]], "second": [["Say a", "and b"], ["x"]]}


class BigramDraft(Eagle3Draft):
    """A random head that also likes what the target wrote after the same token before: it gets long paths accepted."""

    bonus: torch.Tensor  # (vocabulary, Vd)

    def start(self, batch: int, capacity: int) -> BigramSession:
        return BigramSession(self, self.pool.take(batch, capacity))


class BigramSession(Eagle3Session):
    def begin(self, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None) -> torch.Tensor:
        last = torch.full((len(tokens),), tokens.shape[1]) if gained is None else gained.long()
        roots = tokens.gather(1, last[:, None] - 1)
        return super().begin(features, tokens, gained) + self.draft.bonus[roots]

    def expand(self, tree: DraftTree) -> torch.Tensor:
        return super().expand(tree) + self.draft.bonus[tree.beam_tokens]


def bigrams(decoder: Decoder, seed: int, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Bonuses of random size for the pairs of tokens in some answers of the target, one to each question."""
    assert decoder.draft is not None and decoder.draft.d2t is not None
    draft_ids = {int(token): index for index, token in enumerate(torch.arange(64) + decoder.draft.d2t)}
    bonus, generator = torch.zeros(decoder.target.vocab_size, 64), torch.Generator().manual_seed(seed)
    for turns, sampling in zip((*QUESTIONS["first"], *QUESTIONS["second"]), samplings, strict=True):
        prompt = decoder.encode(turns[0])
        answer = decoder.generate(prompt, max_new_tokens=NEW_TOKENS, policy="none", **asdict(sampling)).token_ids
        for before, after in pairwise(answer):
            if after in draft_ids:
                bonus[before, draft_ids[after]] = 30 * torch.rand((), generator=generator)
    return bonus


def load_bigrams(*arguments: Any, samplings: Sequence[Sampling] = (Sampling(),) * 4, **options: Any) -> Decoder:
    """`ltd.load`, with such a draft; the answers that it has seen are greedy unless something else is said of each."""
    decoder = load_decoder(*arguments, **options)
    draft = copy.copy(decoder.draft)
    draft.__class__ = BigramDraft
    draft._siblings = {draft.width: draft}
    draft.bonus = bigrams(decoder, 1, samplings)
    decoder.draft = draft
    return decoder


def load_oracle(target: str, draft: object, *, dtype: str, **options: Any) -> Decoder:
    """`ltd.load`, with a draft of a kind that `ltd` does not know: another model, which often agrees with the target.

    It has neither features nor states nor an origin; at one place it always proposes the same.
    """
    decoder = load_decoder(target, "none", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.015 * torch.randn(weight.shape, generator=generator)
    decoder.draft = OracleDraft(model, noise=0.0, width=DEFAULT_WIDTH)
    return decoder


@dataclass
class Recorded:
    """Traces, and the decoder that they speak of."""

    decoder: Decoder
    traces: Traces
    config: RecordConfig


def decode(decoder: Decoder, generation: RecordedGeneration, policy: Policy) -> Cycles:
    """What the real decoder does with the generation's prompt, at its temperature and with its seed."""
    prompt = generation.tokens[: generation.prompt_length].tolist()
    answer = decoder.generate(prompt, max_new_tokens=NEW_TOKENS, policy=policy, **asdict(generation.sampling))
    assert answer.token_ids == generation.tokens[generation.prompt_length :].tolist()
    found = answer.statistics
    positions = np.cumsum([0, *found.gains])[: len(found.gains)]
    return Cycles(positions, np.array(found.depths), np.array(found.sizes), np.array(found.gains))


def assert_same(one: Cycles, other: Cycles) -> None:
    for name in ("positions", "depths", "sizes", "gains"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@dataclass
class Schedule:
    """Decisions by position, for the decoder."""

    generation: RecordedGeneration
    depth_at: list[int]
    size_at: list[int]
    max_depth: int = DEPTH
    max_size: int = 512
    max_text: int = 0

    def start(self, batch: int) -> Schedule:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return depth < self.depth_at[int(tree.lengths[0]) - self.generation.prompt_length]

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return self.size_at[int(tree.lengths[0]) - self.generation.prompt_length]


class Rounded:
    """A learned policy that sees the draft's states with the precision that traces keep."""

    def __init__(self, policy: Learned, call: LearnedCall | None = None) -> None:
        self.policy, self.call = policy, call
        self.max_depth, self.max_size = policy.max_depth, policy.max_size
        self.max_text, self.text_scores = policy.max_text, policy.text_scores

    def start(self, batch: int) -> Rounded:
        return Rounded(self.policy, self.policy.start(batch))

    def keep(self, rows: list[int]) -> None:
        assert self.call is not None
        self.call.keep(rows)

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        assert self.call is not None
        return self.call.speculate(lengths, gained)

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        assert self.call is not None
        self._round(tree)
        return self.call.continue_drafting(tree, depth)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        assert self.call is not None
        self._round(tree)
        return self.call.choose_size(tree, depth)

    def _round(self, tree: DraftTree) -> None:
        if tree.root_states is not None:
            tree.root_states = tree.root_states.half()
