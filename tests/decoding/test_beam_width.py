"""The beam width that a policy names: the draft takes it, and the text stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_outcomes import random_network
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM

import ltd
from ltd.decoding.decoder import Decoder
from ltd.decoding.workspace import recorded_sizes
from ltd.drafts.base import at_width
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.latency.calibration import calibrate
from ltd.latency.cycle_bench import Plan
from ltd.latency.model import setup_of
from ltd.loading import make_target
from ltd.policies import Learned
from ltd.policies.base import FixedSize
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.tree import DraftTree

PROMPT = [1, 9, 33, 12, 40, 7, 7, 12]


@pytest.fixture(scope="module")
def decoder(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> Decoder:
    return ltd.load(tiny_target("llama"), tiny_head("llama"), policy="static", dtype="float32")


def eagle(decoder: Decoder) -> Eagle3Draft:
    assert isinstance(decoder.draft, Eagle3Draft)
    return decoder.draft


@dataclass
class Looking(FixedSize):
    """A fixed tree that notes how wide trees are."""

    width: int | None
    max_depth: int = 2
    size: int = 6
    seen: set[tuple[int, int]] = field(default_factory=set)

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return depth < self.max_depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        self.seen.add((tree.width, tree.candidates))
        return self.size


def test_a_width_may_be_a_number_of_another_library(decoder: Decoder) -> None:
    for width in (np.int64(3), torch.tensor(3)):
        policy = Looking(width, size=np.int64(6))
        policy.sizes = (np.int64(0), torch.tensor(6))  # type: ignore[attr-defined]
        decoder.generate(PROMPT, max_new_tokens=4, stop_token_ids=[], policy=policy)
        assert {width for width, _ in policy.seen} == {3} and recorded_sizes(policy) == (0, 6)
    policy = Looking(2.5)
    with pytest.raises(ltd.InputError, match=r"the policy's width is 2\.5; as a policy's attribute"):
        decoder.generate(PROMPT, max_new_tokens=4, policy=policy)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    widths=st.lists(st.one_of(st.none(), st.integers(1, 16)), min_size=1, max_size=3),
    depth=st.integers(0, 4),
    size=st.integers(0, 30),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_text_is_plain_text_at_every_width_and_cycles_are_those_of_such_a_draft(
    decoder: Decoder, widths: list[int | None], depth: int, size: int, temperature: float
) -> None:
    options = {"max_new_tokens": 20, "temperature": temperature, "seed": 3 if temperature else None}
    plain = decoder.generate(PROMPT, policy="none", **options).token_ids
    for width in widths:
        answer = decoder.generate(PROMPT, policy=ltd.Static(depth, size, width), **options)
        assert answer.token_ids == plain
        draft = eagle(decoder)
        same = Decoder(
            decoder.target,
            Eagle3Draft(draft.head, draft.embedding, width or draft.width, draft.forward, draft.origin),
            ltd.Static(depth, size),
            stop_ids=decoder.stop_ids,
        ).generate(PROMPT, **options)
        assert same.statistics.gains == answer.statistics.gains and same.token_ids == plain


@pytest.mark.parametrize(("width", "seen"), [(None, (10, 210)), (4, (4, 36)), (1, (1, 3))])
def test_trees_have_the_width_of_the_policy(decoder: Decoder, width: int | None, seen: tuple[int, int]) -> None:
    policy = Looking(width)
    decoder.generate([PROMPT, PROMPT[:5]], max_new_tokens=12, policy=policy)
    assert policy.seen == {seen}
    assert eagle(decoder).width == 10


def test_a_learned_policy_brings_the_width_that_it_was_trained_with(decoder: Decoder) -> None:
    layout = Summary(best=6, newest=3)
    networks = random_network(layout, 2, 0), random_network(layout, 3, 1)
    policy = Learned(Setting(3), 4, (2, 4, 6), *networks)
    speculation = decoder.speculation(policy)
    assert speculation is not None and speculation.limits == (3, 4, 6)
    plain = decoder.generate(PROMPT, max_new_tokens=20, policy="none").token_ids
    assert decoder.generate(PROMPT, max_new_tokens=20, policy=policy).token_ids == plain


def test_a_draft_of_another_width_shares_its_weights_and_is_made_once(decoder: Decoder) -> None:
    draft = eagle(decoder)
    narrow = draft.with_width(4)
    assert narrow is draft.with_width(4) and narrow.with_width(10) is draft and narrow.width == 4
    assert narrow.head is draft.head and narrow.pool is draft.pool
    assert at_width(draft, None) is draft and at_width(draft, 10) is draft and at_width(draft, 4) is narrow


def test_a_width_that_cannot_be_is_named(decoder: Decoder, tiny_target: Callable[[str], Path]) -> None:
    for width, message in {0: "beam width 0", 17: "beam width 17", True: "width is True", 2.5: "width is 2.5"}.items():
        with pytest.raises(ltd.InputError, match=message):
            ltd.Static(2, 6, width)  # type: ignore[arg-type]
        with pytest.raises(ltd.InputError, match=message):
            ltd.Both(1, 2, 4, width=width)  # type: ignore[arg-type]
    with pytest.raises(ltd.InputError, match="the policy's width is 'wide'"):
        decoder.generate(PROMPT, max_new_tokens=4, policy=Looking("wide"))  # type: ignore[arg-type]
    with pytest.raises(ltd.InputError, match="beam width 40"):
        decoder.generate(PROMPT, max_new_tokens=4, policy=Looking(40))
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()
    fixed = Decoder(make_target(model, (), False), OracleDraft(model, width=5), ltd.Static(1, 3))
    assert fixed.generate(PROMPT, max_new_tokens=8, policy=ltd.Static(1, 3, width=5)).statistics.cycles
    with pytest.raises(ltd.InputError, match="beam width 4 is asked for, but this draft's is 5 and cannot be changed"):
        fixed.generate(PROMPT, max_new_tokens=8, policy=ltd.Static(1, 3, width=4))


def test_costs_are_measured_at_a_width(decoder: Decoder) -> None:
    plan = Plan((40,), (0, 2, 30), (1, 2), 2, seconds=0.01, width=3)
    found = calibrate(decoder, plan)
    assert found.setup == {**setup_of(decoder), "width": 3}
    assert found.parts["verify"].sizes.tolist() == [0, 2]  # a tree of width 3 and depth 2 has 21 candidates
    assert replace(plan, width=None).width is None and eagle(decoder).width == 10
