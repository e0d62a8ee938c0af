"""The sampled text has the target's distribution: tested against exact enumeration of all short sequences."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from drafted_inside import often_right
from exact_sequences import NEW, PROMPT, check_law, enumerated, sampler, small_model, warpers
from made_outcomes import random_network
from oracle_draft import OracleDraft
from transformers import (
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
)

from ltd.decoding.decoder import Decoder
from ltd.decoding.generation_config import ModelRules
from ltd.policies import Both, Learned, Lookup, Policy, Static
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.target.target import Target

WIDTH = 3
LAYOUT = Summary(best=5, newest=2)
LEARNED = Learned(Setting(WIDTH), 2, (2, 4, 6), random_network(LAYOUT, 2, 0), random_network(LAYOUT, 3, 1))
HISTORY = [*PROMPT, 0, 3, 5, -1, *PROMPT, 2, 2, 1, -1, *PROMPT, 4, 0, 0]


def drafted(model: LlamaForCausalLM, **options: Any) -> Decoder:
    """The model with a copy as its draft, that is often right."""
    draft = OracleDraft(copy.deepcopy(model), noise=1.0, width=WIDTH)
    return Decoder(Target(model), draft, Static(depth=1, size=6), history=HISTORY, **options)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.3, 4, 1.0), (1.0, 0, 0.8), (1.2, 5, 0.9)]
)
def test_sequences_have_the_targets_distribution(temperature: float, top_k: int, top_p: float) -> None:
    model, gains = small_model(), list[int]()
    sample = sampler(drafted(model), gains, 500, temperature=temperature, top_k=top_k, top_p=top_p)
    check_law(enumerated(model, warpers(temperature, top_k, top_p)), sample, seeds=12)
    assert sum(gains) - len(gains) > 1500  # the test is about accepted drafts, so there must be many


@pytest.mark.parametrize("copies", [1, 500])
@pytest.mark.parametrize(
    "policy", ["none", Static(0, 3), Static(2, 12), LEARNED, Lookup(6), Both(1, 4, 4)], ids=lambda policy: str(policy)
)
def test_whatever_proposes_the_distribution_is_the_targets(policy: Any, copies: int) -> None:
    """Over the rows of a batch, and over seeds."""
    model, gains = small_model(), list[int]()
    sample = sampler(drafted(model), gains, copies, temperature=0.8, top_k=5, policy=policy)
    check_law(enumerated(model, warpers(0.8, 5)), sample, seeds=250 if copies == 1 else 4)
    assert (sum(gains) == len(gains)) == (policy == "none")


@pytest.mark.parametrize("policy", ["none", Static(1, 6)], ids=str)
def test_sequences_have_the_distribution_that_processors_leave(policy: Policy) -> None:
    """A repetition penalty knows the text, and the settings of sampling come behind it."""
    model = small_model()
    model.generation_config.repetition_penalty = 1.7
    sample = sampler(drafted(model, rules=ModelRules.of(model)), [], 50, temperature=1.2, top_p=0.9, policy=policy)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.7), *warpers(1.2, top_p=0.9)])
    check_law(enumerated(model, processors), sample, seeds=16)


@pytest.mark.parametrize("more", [{}, {"min_p": 0.1}], ids=["known", "asked"])
def test_sequences_inside_generate_have_the_distribution(more: dict[str, Any]) -> None:
    """Where the operators know all that is asked for, and where the processors of `transformers` are asked."""
    model, gains = small_model(), list[int]()
    speculative, ids = often_right(model), torch.tensor([PROMPT] * 2)  # rows take every step together

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        options = {"do_sample": True, "temperature": 0.9, "top_k": 5, "max_new_tokens": NEW, **more}
        output = model.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=speculative, **options)
        gains.extend(speculative.last_statistics.gains)
        answers: list[list[int]] = output[:, len(PROMPT) :].tolist()
        return answers

    processors = LogitsProcessorList([*warpers(0.9, 5), *([MinPLogitsWarper(0.1)] if more else [])])
    check_law(enumerated(model, processors), sample, seeds=300)
    assert sum(gains) > len(gains)
