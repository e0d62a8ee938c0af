"""Noise that belongs to a place: one seed is one text, and a draft that is right about the target is always right."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from drafted_inside import often_right
from made_outcomes import random_network
from noise_reference import place_noise
from oracle_draft import OracleDraft
from small_models import small_config
from tape import Tape
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ltd import ops
from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder
from ltd.decoding.generation_config import ModelRules
from ltd.drafts.base import Origin
from ltd.drafts.sharpness import Sharpness, SharpnessAt, save_sharpness
from ltd.engine.cpu import Engine
from ltd.policies import Both, Learned, Lookup, Static
from ltd.policies.by_name import parse_policy
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.target.target import Target
from ltd.tree import DraftTree

WIDTH, NEW = 4, 24
PROMPTS = [[5, 9, 20, 33, 41, 5, 9, 20], [41, 33, 20], [7, 8, 9, 10, 11, 7, 8, 9, 10, 11, 7]]
SAMPLED: dict[str, Any] = {"max_new_tokens": NEW, "temperature": 1.3, "top_k": 60, "top_p": 0.98, "seed": 7}
LAYOUT = Summary(best=5, newest=2)
POLICIES = [
    Static(0, 2),
    Static(3, 12),
    Learned(Setting(WIDTH), 3, (2, 6, 12), random_network(LAYOUT, 2, 0), random_network(LAYOUT, 3, 1)),
    parse_policy("svip:size=6"),
    Lookup(8),
    Both(1, 4, 8),
]


@cache
def model() -> PreTrainedModel:
    torch.manual_seed(3)
    made = AutoModelForCausalLM.from_config(small_config("llama")).eval()
    made.config.pad_token_id = made.generation_config.pad_token_id = made.generation_config.eos_token_id = None
    return made


def decoder_of(noise: float = 1.0, *, engine: bool = True, **options: Any) -> Decoder:
    """The model, on its engine or the layers of `transformers`, with its copy as a draft."""
    own = copy.deepcopy(model())
    target = Target(own, (), Engine(own) if engine else None)
    return Decoder(target, OracleDraft(model(), noise=noise, width=WIDTH), Static(3, 12), **options)


def texts(decoder: Decoder, **options: Any) -> list[list[int]]:
    answers: Any = decoder.generate(PROMPTS, **{**SAMPLED, **options})
    return [answer.token_ids for answer in answers]


def reference(prompt: list[int], row: int, processors: LogitsProcessorList) -> list[int]:
    """The text that the rule gives, by forwards of `transformers` over the whole text, without a cache or a draft."""
    ids = torch.tensor([prompt])
    for _ in range(NEW):
        with torch.inference_mode():
            scores = processors(ids, model()(ids, use_cache=False).logits[:, -1].float())
        noise = place_noise(SAMPLED["seed"], row, ids.shape[1] - 1, scores.shape[1])
        ids = torch.cat([ids, (scores.double() + torch.from_numpy(noise)).argmax(-1, keepdim=True)], dim=1)
    return ids[0, len(prompt) :].tolist()


def warpers() -> list[Any]:
    return [
        TemperatureLogitsWarper(SAMPLED["temperature"]),
        TopKLogitsWarper(SAMPLED["top_k"]),
        TopPLogitsWarper(SAMPLED["top_p"]),
    ]


@pytest.mark.parametrize("engine", [True, False], ids=["engine", "layers"])
def test_the_text_is_the_rules(engine: bool) -> None:
    """On both kinds of forward, with trees and without, in float32: argmax of the scores with the place's noise."""
    expected = [reference(prompt, row, LogitsProcessorList(warpers())) for row, prompt in enumerate(PROMPTS)]
    decoder = decoder_of(engine=engine)
    for policy in ("none", Static(3, 12)):
        assert texts(decoder, policy=policy) == expected
    assert texts(decoder, seed=8) != expected


@pytest.mark.parametrize("engine", [True, False], ids=["engine", "layers"])
def test_the_text_under_a_penalty_is_the_rules(engine: bool) -> None:
    """Logits processors change the scores, and nothing else."""
    asked = copy.copy(model())
    asked.generation_config = copy.copy(asked.generation_config)
    asked.generation_config.repetition_penalty = 1.5
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5), *warpers()])
    expected = [reference(prompt, row, processors) for row, prompt in enumerate(PROMPTS)]
    decoder = decoder_of(engine=engine, rules=ModelRules.of(asked))
    for policy in ("none", Static(3, 12)):
        assert texts(decoder, policy=policy) == expected


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_one_seed_is_one_text(policy: Any) -> None:
    """Of a batch, and of a prompt by itself, which is the first of its call; in recorded cycles too."""
    decoder, recorded = decoder_of(), decoder_of()
    recorded.target.captures = Tape  # type: ignore[method-assign, assignment]
    expected = texts(decoder, policy="none")
    assert texts(decoder, policy=policy) == expected
    alone: Any = recorded.generate(PROMPTS[0], **SAMPLED, policy=policy)
    assert alone.token_ids == expected[0]


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.5}, {"min_p": 0.01}], ids=str)
def test_one_seed_is_one_text_inside_generate(more: dict[str, Any]) -> None:
    """The seed is drawn from torch's generator, as it is for a decoder that is given none."""
    own, ids = model(), torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    speculative = often_right(own)
    options = {name: value for name, value in SAMPLED.items() if name != "seed"}
    found = []
    for policy in (Static(3, 12), "none", Static(0, 2)):
        speculative.policy = policy
        torch.manual_seed(4)
        mask = torch.ones_like(ids)
        output = own.generate(ids, attention_mask=mask, do_sample=True, custom_generate=speculative, **options, **more)
        found.append(output[:, ids.shape[1] :].tolist())
    assert found[0] == found[1] == found[2]
    if not more:
        torch.manual_seed(4)
        seed = Sampling().drawn_seed()
        answers: Any = decoder_of().generate(ids, **options, seed=seed)
        assert found[0] == [answer.token_ids for answer in answers]


class InAnotherOrder(OracleDraft):
    """Its words are the target's, numbered from the last."""

    @property
    def d2t(self) -> torch.Tensor:  # type: ignore[override]
        count = self.model.config.vocab_size
        return count - 1 - 2 * torch.arange(count)

    def logits(self, rows: list[list[list[int]]]) -> torch.Tensor:
        return super().logits(rows).flip(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", [OracleDraft, InAnotherOrder])
def test_a_draft_that_knows_the_target_is_always_right(temperature: float, kind: type[OracleDraft]) -> None:
    """At every temperature its one candidate of each level is the target's token, in batches that shrink too."""
    limit = max(map(len, PROMPTS)) + NEW - 4  # other ends for every prompt
    decoder = decoder_of(max_length=limit)
    decoder.draft = kind(model(), width=1)
    options = {"max_new_tokens": NEW, "temperature": temperature, "seed": 3}
    for policy, gain in ((Static(0, 1), 2), (Static(4, 5), 6)):
        for prompts in (PROMPTS[:1], PROMPTS):
            answers: Any = decoder.generate(prompts, **options, policy=policy)
            # All but an answer's last cycle, which has what is left to the limit, gain everything.
            expected: list[int] = []
            for answer in answers:
                whole, rest = divmod(len(answer.token_ids) - 1, gain)
                expected += [gain] * whole + [rest] * (rest > 0)
            assert sorted(answers[0].statistics.gains) == sorted(expected)


def test_a_processors_temperature_is_the_drafts() -> None:
    """Where the processors of `transformers` are asked, a draft that knows the target is right as well."""
    own, ids, speculative = model(), torch.tensor([PROMPTS[0]]), often_right(model(), noise=0.0)
    speculative.policy = Static(3, 4)
    speculative.decoder.draft.width = 1
    torch.manual_seed(1)
    options = {"do_sample": True, "temperature": 2.5, "top_k": 0, "min_p": 1e-6, "max_new_tokens": 1 + 2 * 5}
    own.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=speculative, **options)
    assert speculative.last_statistics.gains == [5, 5]


@dataclass(frozen=True)
class Looking(Static):
    """Keeps what it is shown of the levels."""

    levels: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        assert tree.logits is not None
        self.levels.append((int(tree.lengths[0]) + depth, tree.logits.clone(), tree.newest_scores.clone()))
        return super().continue_drafting(tree, depth)


def test_scores_are_as_sharp_as_the_drafts_folder_says(tmp_path: Path) -> None:
    """The scores of level after level, and the candidates are the same for all."""
    fits = Sharpness((SharpnessAt(0.5, [0.5, 0.25]), SharpnessAt(1.5, [1.0, 0.75])))
    save_sharpness(fits, tmp_path, {})
    decoder, seen = decoder_of(noise=0.0), []
    for origin in (None, Origin(tmp_path)):
        policy = Looking(2, 4)
        decoder.draft = OracleDraft(model(), width=1)
        decoder.draft.origin = origin  # type: ignore[misc]
        decoder.generate(PROMPTS[0], max_new_tokens=6, temperature=1.0, seed=5, policy=policy)
        seen.append(policy.levels[:2])
    for origin_sharpness, levels in zip(((1.0, 1.0), (0.75, 0.5)), seen, strict=True):
        before = 0.0
        for sharpness, (position, logits, scores) in zip(origin_sharpness, levels, strict=True):
            values = logits[0, 0].double() + torch.from_numpy(place_noise(5, 0, position, logits.shape[2]))
            expected = before + (sharpness * values).log_softmax(-1).max()
            assert float(scores[0, 0]) == pytest.approx(float(expected), abs=1e-4)
            before = float(scores[0, 0])


def test_noise_has_room_for_what_a_tree_can_reach() -> None:
    """Not for more: plain decoding keeps that of one place."""
    decoder, made = decoder_of(), []
    new = ops.Noise.new

    def watched(*arguments: Any) -> ops.Noise:
        made.append(new(*arguments))
        return made[-1]

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(ops.Noise, "new", watched)
        for policy in ("none", Static(3, 12), Both(1, 4, 8)):
            decoder.generate(PROMPTS[0], max_new_tokens=3, temperature=1.0, policy=policy)
        decoder.generate(PROMPTS[0], max_new_tokens=3)
    assert [noise.noise.shape[1] for noise in made] == [1, 8, 32]
