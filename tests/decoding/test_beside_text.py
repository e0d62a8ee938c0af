"""Rules for the draft's tree with looked-up tokens beside them: `text=8` behind a rule's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import ltd
from ltd.decoding.decoder import Decoder, Generation
from ltd.drafts.base import at_width
from ltd.errors import InputError
from ltd.loading import make_target
from ltd.policies import BesideText, Both, Lookup, Policy, Static
from ltd.policies.at_width import AtWidth
from ltd.policies.base import FixedSize, MadeForHead
from ltd.policies.by_name import parse_policy
from ltd.tree import DraftTree

Folder = Callable[[str], Path]
RULES = (
    "ddd:levels=1/2:max_depth=3:size=5",
    "svip:max_depth=3:size=4",
    "gammatune:depth=2:size=6",
    "eagle3:depth=2:size=3",
)


@pytest.fixture(scope="module")
def decoder(tiny_target: Folder, tiny_head: Folder) -> Decoder:
    return ltd.load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")


def repetitive(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return (3 + torch.randint(6, (length,), generator=generator)).tolist()


def answer_of(decoder: Decoder, prompt: list[int], policy: Policy | str, **options: object) -> Generation:
    answer = decoder.generate(prompt, max_new_tokens=40, policy=policy, **options)  # type: ignore[arg-type]
    assert isinstance(answer, Generation)
    return answer


cycles = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cycles
@given(
    seed=st.integers(0, 2**31), length=st.integers(2, 60), depth=st.integers(0, 3), size=st.integers(0, 12),
    text=st.integers(1, 64), alone=st.sampled_from([0.0, 0.3, 0.6, 1.0]), least=st.sampled_from([0.0, 0.05, 0.5]),
    temperature=st.sampled_from([0.0, 1.0]), width=st.sampled_from([None, 4]),
)  # fmt: skip
def test_beside_a_fixed_tree_it_is_both(
    decoder: Decoder, seed: int, length: int, depth: int, size: int, text: int, alone: float, least: float,
    temperature: float, width: int | None,
) -> None:  # fmt: skip
    prompt = repetitive(seed, length)
    options = {"temperature": temperature, "seed": seed}
    expected = answer_of(decoder, prompt, Both(depth, size, text, alone, least, width), **options)
    found = answer_of(decoder, prompt, BesideText(Static(depth, size, width), text, alone, least), **options)
    assert found.token_ids == expected.token_ids
    for name in ("gains", "depths", "sizes", "sources"):
        assert getattr(found.statistics, name) == getattr(expected.statistics, name)


@pytest.mark.parametrize("rule", RULES)
@cycles
@given(seed=st.integers(0, 2**31), length=st.integers(2, 60), temperature=st.sampled_from([0.0, 1.0]))
def test_the_text_is_plain_decodings(decoder: Decoder, rule: str, seed: int, length: int, temperature: float) -> None:
    prompt, options = repetitive(seed, length), {"temperature": temperature, "seed": seed}
    plain = answer_of(decoder, prompt, "none", **options)
    found = answer_of(decoder, prompt, parse_policy(f"{rule}:text=8:alone=0.5"), **options)
    assert found.token_ids == plain.token_ids
    rows = decoder.generate(
        [prompt, repetitive(seed + 1, length)], max_new_tokens=9, policy=parse_policy(f"{rule}:text=3")
    )
    assert rows[0].token_ids == answer_of(decoder, prompt, "none").token_ids[:9]


def test_the_text_adds_tokens_where_it_repeats_itself(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = ltd.load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    prompt = repetitive(3, 40)
    plain = answer_of(decoder, prompt, "none").token_ids
    decoder.history = (*prompt, *plain)
    found = {
        name: answer_of(decoder, prompt, parse_policy(name)).statistics for name in (RULES[1], f"{RULES[1]}:text=8")
    }
    rule, beside = found.values()
    assert beside.sources["text"] > 0 and "text" not in rule.sources
    assert sum(beside.gains) / beside.cycles > sum(rule.gains) / rule.cycles


@dataclass(frozen=True, slots=True)
class OfAnotherHead(FixedSize, MadeForHead):
    """A rule with a network."""

    size: int = 3
    max_depth: int = 1
    head_sha256: str | None = "0" * 64

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return depth < 1

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return 3


def test_a_rule_of_another_head_is_refused_beside_text_too(tiny_target: Folder, tiny_head: Folder) -> None:
    for policy in (OfAnotherHead(), BesideText(OfAnotherHead())):
        with pytest.raises(InputError, match="was trained for another draft head"):
            ltd.load(tiny_target("llama"), tiny_head("llama"), policy=policy, dtype="float32", device="cpu")


def test_without_a_draft_it_is_refused(tiny_target: Folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32)
    with pytest.raises(InputError, match="draft"):
        Decoder(make_target(model, (), takes_weights=False), None, BesideText(Static(1, 4))).generate(
            [5, 6], max_new_tokens=3
        )


def test_names() -> None:
    assert parse_policy("eagle3:depth=2:text=5:alone=0.4") == BesideText(Static(2, 60), 5, 0.4)
    assert parse_policy("eagle3:text=5:least=0.1") == BesideText(Static(8, 60), 5, 1.0, 0.1)
    assert parse_policy("both:text=5") == Both(text=5)
    assert parse_policy("lookup:least=0.2") == Lookup(least=0.2)
    assert (
        str(parse_policy("eagle3:text=5:alone=0.4"))
        == f"{Static(8, 60)}, with 5 of the text, the text alone from a chance of 0.4"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ddd:alone=0.5", "looks nothing up; say how many tokens with text=8, or leave out alone"),
        ("ddd:text=0", "0 candidates of the text are out of range"),
        ("ddd:text=65", "65"),
        ("ddd:text=many", "ddd's text is 'many'; it must be a whole number"),
        ("ddd:text=8:alone=2", "alone 2.0 is out of range"),
        ("ddd:text=8:least=-1", "least -1.0 is out of range"),
        ("ddd:text=8:text=9", "gives text twice"),
        ("svip:sampler=noise", "it has factor, bound, max_depth, size, width, text, alone, least"),
        ("eagle3:sampler=noise", "it has depth, size, width, text, alone, least"),
        ("lookup:text=8", "lookup has no option 'text'"),
        ("static:text=8", "there is no policy 'static'"),
    ],
)
def test_what_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(name)


def test_a_rule_with_text_of_its_own_is_refused() -> None:
    for rule in (Both(), Lookup(), BesideText(Static(1, 2))):
        for around in (BesideText, partial(AtWidth, width=4)):
            with pytest.raises(InputError, match="looks tokens up by itself"):
                around(rule)
    with pytest.raises(InputError, match="a rule for the draft's tree"):
        BesideText("ddd")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [-1, 7])
def test_the_text_does_not_hide_a_size_that_is_none(decoder: Decoder, wrong: int) -> None:
    """Together with what the text adds it may well be one."""

    class Wrong(FixedSize):
        size, max_depth = 6, 0

        def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
            return False

        def choose_size(self, tree: DraftTree, depth: int) -> int:
            return wrong

    with pytest.raises(InputError, match=rf"size {wrong} is out of range; Wrong\.choose_size must answer 0 … 6"):
        decoder.generate([5, 6, 7] * 10, max_new_tokens=8, policy=BesideText(Wrong(), least=0.0))


def test_what_never_drafts_has_no_width() -> None:
    class Never(FixedSize):
        size, max_depth, drafts = 0, 0, False

    with pytest.raises(InputError, match="never asks a draft, so its trees have no beam width; leave the width out"):
        AtWidth(Never(), 4)


def test_a_rule_takes_a_beam_width(decoder: Decoder) -> None:
    for name in RULES:
        policy = parse_policy(f"{name}:width=4:text=3")
        assert isinstance(policy, BesideText) and policy.width == 4
    narrow = parse_policy(f"{RULES[0]}:width=2")
    assert isinstance(narrow, AtWidth) and str(narrow).endswith(", width 2")
    prompt = repetitive(7, 30)
    found = answer_of(decoder, prompt, narrow).statistics
    assert decoder.draft is not None
    beside = Decoder(decoder.target, at_width(decoder.draft, 2), narrow.rule, stop_ids=decoder.stop_ids)
    assert answer_of(beside, prompt, narrow.rule).statistics.sizes == found.sizes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ddd:width=0", "width"),
        ("ddd:width=17", "beam width 17 is out of range; it must be 1 … 16"),
        ("ddd:width=16", "beam width 16 at depth 12 makes 3088 candidates"),
        ("svip:width=13:text=8", "beam width 13 at depth 12 makes 2049 candidates"),  # the text's with them
        ("both:depth=12:width=13", "makes 2049 candidates"),
        ("ddd:width=four", "ddd's width is 'four'; it must be a whole number"),
        ("svip:width=2:width=3", "gives width twice"),
        ("smart:width=7", "has the beam width"),
    ],
)
def test_widths_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(name)
