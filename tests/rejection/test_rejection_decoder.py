"""Text by recursive rejection has the target's distribution: against exact enumeration of all short sequences."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_sequences import PROMPT, WORDS, check_law, enumerated, law_p_value, sampler, small_model, warpers
from oracle_draft import OracleDraft
from torch import Tensor

import ltd
from ltd.chains import Constant
from ltd.common.arrays import Doubles
from ltd.decoding.decoder import Decoder
from ltd.decoding.generation_config import ModelRules
from ltd.engine.cpu import Engine
from ltd.errors import InputError
from ltd.policies import DDD, Static
from ltd.rejection import RejectionDecoder, acceptance
from ltd.rejection.distributions import draw
from ltd.target.target import Target

WIDTH, COPIES, SEEDS = 3, 150, 10
TRIMMED = [5, 0, 3, 2]
Folder = Callable[[str], Path]


class FewWords(OracleDraft):
    """One that knows some of the target's tokens alone, in an order of its own."""

    d2t: Any = torch.tensor(TRIMMED) - torch.arange(len(TRIMMED))

    def logits(self, rows: list[list[list[int]]]) -> Tensor:
        return super().logits(rows)[:, :, TRIMMED]


def rejecting(tree: Static, kind: type[OracleDraft] = OracleDraft) -> RejectionDecoder:
    """The small model, with a draft that is often right, and wrong at a place in the same way every time.

    Over drafts whose mistakes are drawn anew a wrong rule's mistakes would cancel out: the tests would hardly see them.
    """
    model, other = small_model(), small_model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return RejectionDecoder(Target(model, (), Engine(model)), kind(other, width=WIDTH), tree)


@pytest.mark.parametrize(
    ("kind", "temperature", "top_k", "top_p"),
    [
        (OracleDraft, 1.0, 0, 1.0),
        (OracleDraft, 0.6, 0, 1.0),
        (OracleDraft, 1.0, 0, 0.8),
        (OracleDraft, 1.2, 5, 0.9),
        (FewWords, 1.0, 0, 1.0),
        (FewWords, 1.3, 4, 1.0),
    ],
)
def test_sequences_have_the_targets_distribution(
    kind: type[OracleDraft], temperature: float, top_k: int, top_p: float
) -> None:
    gains = list[int]()
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    sample = sampler(rejecting(Static(1, 6), kind), gains, COPIES, **options)
    check_law(enumerated(small_model(), warpers(temperature, top_k, top_p)), sample, seeds=SEEDS)
    assert sum(gains) - len(gains) > 0.25 * COPIES * SEEDS  # the test is about accepted drafts, so there must be many


@pytest.mark.parametrize("tree", [Static(0, 1), Static(0, 3), Static(2, 3), Static(2, 15)], ids=str)
def test_whatever_the_tree_the_distribution_is_the_targets(tree: Static) -> None:
    gains = list[int]()
    sample = sampler(rejecting(tree), gains, COPIES, temperature=0.8, top_k=5)
    check_law(enumerated(small_model(), warpers(0.8, 5)), sample, seeds=SEEDS)
    assert sum(gains) - len(gains) > 0.15 * COPIES * SEEDS


def test_over_seeds_of_one_prompt() -> None:
    decoder = rejecting(Static(1, 5))
    check_law(enumerated(small_model(), warpers(0.5)), sampler(decoder, [], 1, temperature=0.5), seeds=250)


def mistaken(monkeypatch: pytest.MonkeyPatch, reject: Callable[..., tuple[int | None, int]]) -> float:
    """The p-value of texts whose children are rejected in another way."""
    monkeypatch.setattr(acceptance, "reject", reject)
    sample = sampler(rejecting(Static(1, 6)), [], COPIES, temperature=1.0)
    counts = Counter(tuple(tokens) for seed in range(SEEDS) for tokens in sample(seed))
    return law_p_value(enumerated(small_model(), warpers(1.0)), counts)


def test_a_residual_that_forgets_the_draft_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no child is accepted, a token of p, not of what is left of it: the same test says no."""
    right = acceptance.reject

    def forgetful(p: Doubles, q: Doubles, drawn: list[int], numbers: Doubles) -> tuple[int | None, int]:
        which, token = right(p.copy(), q, drawn, numbers)
        return which, draw(p, numbers[-1]) if which is None else token

    assert mistaken(monkeypatch, forgetful) < 1e-6


def test_children_that_are_accepted_too_easily_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first child that the target finds likely enough, without a coin."""

    def generous(p: Doubles, q: Doubles, drawn: list[int], numbers: Doubles) -> tuple[int | None, int]:
        likely = [place for place, token in enumerate(drawn) if p[token] > 0.2]
        return (likely[0], drawn[likely[0]]) if likely else (None, draw(p, numbers[-1]))

    assert mistaken(monkeypatch, generous) < 1e-6


def test_a_seed_repeats_and_depends_on_the_tree_and_the_row() -> None:
    def texts(tree: Static, prompts: list[list[int]], seed: int) -> list[list[int]]:
        answers: Any = rejecting(tree).generate(prompts, max_new_tokens=20, temperature=1.5, seed=seed)
        return [answer.token_ids for answer in answers]

    one = texts(Static(1, 5), [PROMPT] * 3, 4)
    assert texts(Static(1, 5), [PROMPT] * 3, 4) == one
    assert len({tuple(text) for text in one}) == 3  # every row has numbers of its own
    assert texts(Static(1, 5), [PROMPT], 4) == one[:1]
    assert texts(Static(1, 5), [PROMPT] * 3, 5) != one != texts(Static(2, 5), [PROMPT] * 3, 4)


def test_a_batch_that_sequences_leave_goes_on_as_each_alone() -> None:
    decoder = rejecting(Static(1, 5))
    prompts, stops = [PROMPT, [2, 5], [0, 3, 3, 1]], [4]
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.2, "seed": 9, "stop_token_ids": stops}
    together: Any = decoder.generate(prompts, **options)
    assert len({len(answer.token_ids) for answer in together}) > 1  # they end at different times
    alone: Any = decoder.generate([prompts[0]], **options)
    assert alone[0].token_ids == together[0].token_ids


@pytest.mark.parametrize("tree", [Static(0, 2), Static(3, 11)], ids=str)
def test_at_temperature_0_it_is_greedy(tree: Static) -> None:
    decoder = rejecting(tree)
    plain = Decoder(Target(small_model())).generate(PROMPT, max_new_tokens=30)
    found = decoder.generate(PROMPT, max_new_tokens=30)
    assert not isinstance(plain, list) and not isinstance(found, list)
    assert found.token_ids == plain.token_ids
    assert set(found.statistics.sizes) == {tree.size} and set(found.statistics.depths) == {tree.depth}
    assert max(found.statistics.gains) > 1


def test_a_draft_whose_logits_are_not_finite_is_not_followed() -> None:
    class Broken(OracleDraft):
        def logits(self, rows: list[list[list[int]]]) -> Tensor:
            return torch.full_like(super().logits(rows), float("inf"))

    gains = list[int]()
    sample = sampler(rejecting(Static(1, 6), Broken), gains, COPIES, temperature=1.0)
    check_law(enumerated(small_model(), warpers(1.0)), sample, seeds=4)
    assert set(gains) == {1}


def test_a_target_whose_logits_are_not_finite_is_told() -> None:
    model = small_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    decoder = RejectionDecoder(Target(model), OracleDraft(small_model(), width=WIDTH), Static(1, 4))
    with pytest.raises(InputError, match="the target's logits are not finite"):
        decoder.generate(PROMPT, max_new_tokens=4, temperature=1.0)


def test_with_a_draft_head(tiny_target: Folder, tiny_head: Folder) -> None:
    """On the engine, in both types, with the head's own words; one seed is one text."""
    for dtype in ("float32", "bfloat16"):
        decoder = ltd.load(str(tiny_target("llama")), str(tiny_head("llama")), device="cpu", dtype=dtype)
        rejecting_decoder = RejectionDecoder.sharing(decoder, Static(2, 8))
        runs: list[Any] = [
            rejecting_decoder.generate([5, 6, 7], max_new_tokens=30, temperature=1.0, seed=2) for _ in range(2)
        ]
        assert runs[0].token_ids == runs[1].token_ids
        assert sum(runs[0].statistics.gains) == len(runs[0].token_ids) - 1
        assert np.all(np.array(runs[0].statistics.sizes) == 8)
        greedy: Any = rejecting_decoder.generate([5, 6, 7], max_new_tokens=30)
        plain: Any = decoder.generate([5, 6, 7], max_new_tokens=30, policy="none")
        assert greedy.token_ids == plain.token_ids


class ElsewhereTarget(Target):
    """Says that it is on a GPU."""

    device = torch.device("cuda")


def test_what_is_not_honoured_is_refused() -> None:
    model = small_model()
    target, draft = Target(model), OracleDraft(copy.deepcopy(model), width=WIDTH)
    decoder = rejecting(Static(1, 4))
    for policy in ("none", Static(1, 4), DDD()):
        with pytest.raises(InputError, match="trees of a fixed shape, as the decoder was made with"):
            decoder.generate(PROMPT, policy=policy)
    with pytest.raises(InputError, match="draws its trees from a draft, and there is none"):
        RejectionDecoder.sharing(Decoder(target), Static(1, 4))
    model.generation_config.repetition_penalty = 1.3
    with pytest.raises(InputError, match="which recursive rejection does not honour"):
        RejectionDecoder.sharing(Decoder(target, draft, rules=ModelRules.of(model)), Static(1, 4))
    for tree in (DDD(), Constant(2), 3):
        with pytest.raises(InputError, match=r"tree is .*, but must be the depth and size of a fixed tree"):
            RejectionDecoder(target, draft, tree)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at most 3 candidates, not 4"):
        RejectionDecoder(target, draft, Static(0, 4))
    with pytest.raises(InputError, match="runs on the CPU alone, not on cuda"):
        RejectionDecoder(ElsewhereTarget(model), draft, Static(1, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": -1.0}, "temperature -1.0"), ({"top_p": 0.0}, "top_p 0.0"), ({"seed": -1}, "seed -1")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rejecting(Static(1, 4)).generate(PROMPT, **options)


def test_words_are_the_targets() -> None:
    assert rejecting(Static(1, 4)).words is None
    words = rejecting(Static(1, 4), FewWords).words
    assert words is not None and words.tolist() == TRIMMED and max(TRIMMED) < WORDS
