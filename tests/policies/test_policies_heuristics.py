"""The training-free baselines against their rules, worked out again in plain Python on trees that were really grown."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM

from ltd.chains import Constant, Heuristic
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.policies import DDD, SVIP, BesideText, Both, GammaTune, Learned, Lookup, Policy, Static
from ltd.policies.at_width import AtWidth
from ltd.policies.base import beam_width, check_policy, text_limit
from ltd.policies.learned.setting import Setting
from ltd.policies.tree_signals import newest_entropy
from ltd.target.target import Target
from ltd.tree import DraftTree

LENGTHS = torch.tensor([7], dtype=torch.int32)


def grown(seed: int, batch: int, width: int, levels: int, sharpness: float = 3.0) -> DraftTree:
    """A tree of so many levels from random logits."""
    generator = torch.Generator().manual_seed(seed)
    tree = DraftTree(batch, width, 12, 60, torch.device("cpu"))
    tree.begin(torch.zeros(batch, dtype=torch.int64), LENGTHS.repeat(batch))
    for level in range(levels):
        tree.expand(sharpness * torch.randn(batch, width if level else 1, 50, generator=generator), None)
    return tree


def beam_total(tree: DraftTree, row: int) -> float:
    """The logarithm of the total probability of the best W candidates of the newest level."""
    best = sorted(tree.newest_scores[row].tolist(), reverse=True)[: tree.width]
    return math.log(math.fsum(map(math.exp, best)))


def entropy(tree: DraftTree, row: int) -> float:
    """Of the draft's distribution at the parent of the newest level's best candidate, by its definition."""
    scores = tree.newest_scores[row].tolist()
    parent = int(tree.parents[row, tree.newest_from + scores.index(max(scores))])
    beam = [-1] if tree.parents_of_newest is None else tree.parents_of_newest[row].tolist()
    assert tree.logits is not None
    chances = tree.logits[row, beam.index(parent)].double().softmax(dim=0).tolist()
    return -math.fsum(chance * math.log(chance) for chance in chances)


trees = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(1, 3),
    "width": st.integers(1, 5),
    "levels": st.integers(1, 12),
    "sharpness": st.sampled_from([0.5, 3.0, 20.0]),
}


@settings(max_examples=60)
@given(
    **trees,
    floor=st.floats(-6, 0.5),
    looks=st.sets(st.integers(1, 12), min_size=1),
)
def test_ddd_stops_where_the_beam_is_unlikely(seed, batch, width, levels, sharpness, floor, looks):
    tree = grown(seed, batch, width, levels, sharpness)
    total = sum(beam_total(tree, row) for row in range(batch)) / batch
    policy = DDD(floor=floor, levels=tuple(sorted(looks)))
    if abs(total - floor) > 1e-4:
        assert policy.continue_drafting(tree, levels - 1) == (levels not in looks or total > floor)
    # Just at the floor drafting goes on; any higher a floor stops it.
    near = tree.scores.gather(1, tree.beam_nodes[:, levels - 1].long()).logsumexp(1).mean().item()
    assert near == pytest.approx(total, abs=1e-4)
    assert DDD(floor=near, levels=(levels,)).continue_drafting(tree, levels - 1)
    assert not DDD(floor=math.nextafter(near, math.inf), levels=(levels,)).continue_drafting(tree, levels - 1)


def test_ddd_counts_the_roots_children_as_level_one():
    asked = [DDD(floor=100.0).continue_drafting(grown(1, 1, 2, depth + 1), depth) for depth in range(12)]
    assert [depth for depth, goes_on in enumerate(asked) if not goes_on] == [4, 6, 8]


@settings(max_examples=60)
@given(
    **trees,
    factor=st.floats(0.05, 1.0),
    bound=st.floats(0, 1),
)
def test_svip_stops_where_the_draft_is_unsure(seed, batch, width, levels, sharpness, factor, bound):
    tree = grown(seed, batch, width, levels, sharpness)
    each = [entropy(tree, row) for row in range(batch)]
    torch.testing.assert_close(newest_entropy(tree).tolist(), each, rtol=1e-4, atol=1e-5)
    chance = 1 - (factor * sum(each) / batch) ** 0.5
    if abs(chance - bound) > 1e-3:
        assert SVIP(factor, bound).continue_drafting(tree, levels - 1) == (chance > bound)


def test_svip_goes_on_at_the_bound_itself():
    tree = grown(3, 1, 3, 4)
    chance = 1 - math.sqrt(0.15 * newest_entropy(tree).item())
    assert 0 < chance < 1
    assert SVIP(bound=chance).continue_drafting(tree, 3)
    assert not SVIP(bound=math.nextafter(chance, 1)).continue_drafting(tree, 3)


@pytest.mark.parametrize("nats", [0.01, 0.29, 0.31, 0.59, 0.61, 0.9, 1.66, 1.68, 3.0])
def test_svip_as_published_stops_above_six_tenths_of_a_nat(nats):
    """The published code stops where sqrt(0.15 H) > 0.3. A tree whose every distribution has that entropy."""
    tree = DraftTree(1, 2, 3, 0, torch.device("cpu"))
    tree.begin(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int32))
    logits = logits_with_entropy(nats, words=64)
    for rows in (1, 2):
        tree.expand(logits.expand(1, rows, -1).contiguous(), None)
        assert newest_entropy(tree).item() == pytest.approx(nats, abs=1e-3)
        assert SVIP().continue_drafting(tree, tree.levels - 1) == (math.sqrt(0.15 * nats) <= 0.3)


def logits_with_entropy(nats: float, words: int) -> torch.Tensor:
    """(words,): one word is more likely than the others, by as much as makes this entropy (bisection)."""
    low, high = 0.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        logits = torch.zeros(words, dtype=torch.float64)
        logits[5] = middle
        found = -(logits.softmax(0) * logits.log_softmax(0)).sum().item()
        low, high = (middle, high) if found > nats else (low, middle)
    return logits.float()


def depths_of(policy: GammaTune, gains: list[list[int]]) -> list[int]:
    """The depth of every cycle of one call, gains being those of the cycle before."""
    call = policy.start(len(gains[0]))
    tree = grown(0, 1, 1, 1)
    depths = []
    for gained in gains:
        assert call.speculate(LENGTHS, gained)
        depth = next(depth for depth in itertools.count() if not call.continue_drafting(tree, depth))
        assert depth <= call.max_depth and call.choose_size(tree, depth) == call.max_size == policy.size
        depths.append(depth)
    return depths


@settings(max_examples=60)
@given(
    depth=st.integers(0, 12),
    rate=st.floats(0.01, 1),
    batch=st.integers(1, 4),
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=30),
)
def test_gammatune_follows_what_is_accepted(depth, rate, batch, fractions):
    average, now, gains, expected = float(depth), depth, [[1] * batch], [depth]
    for fraction in fractions:
        accepted = [round(fraction * (now + 1) / (row + 1)) for row in range(batch)]
        gains.append([count + 1 for count in accepted])
        observed = [count + 1 if count == now + 1 else count for count in accepted]
        average = average * (1 - rate) + rate * sum(observed) / batch
        if abs(average % 1 - 0.5) < 1e-6:
            return
        now = min(max(round(average), math.ceil(depth / 2)), math.floor(depth * 1.5), 12)
        expected.append(now)
    assert depths_of(GammaTune(depth, rate), gains) == expected


def test_gammatune_grows_to_its_bound_and_shrinks_to_its_other():
    call = GammaTune(depth=4, rate=0.5).start(1)
    tree, seen = grown(0, 1, 1, 1), []
    for cycle in range(20):
        call.speculate(LENGTHS, [call.depth + 2 if cycle <= 10 else 1])
        call.choose_size(tree, call.depth)
        seen.append(call.depth)
    assert seen[0] == 4 and seen[10] == 6 and seen[-1] == 2
    assert seen[:11] == sorted(seen[:11]) and seen[11:] == sorted(seen[11:], reverse=True)


def test_gammatune_keeps_calls_apart_and_outlives_the_rows_of_a_batch():
    policy, tree = GammaTune(rate=1.0), grown(0, 1, 1, 1)
    first, second = policy.start(2), policy.start(2)
    first.choose_size(tree, 8)
    first.keep([1])
    first.speculate(LENGTHS, [6])
    assert (first.depth, second.depth) == (5, 8)


@pytest.mark.parametrize("policy", [DDD(size=7), SVIP(size=7)])
def test_those_that_keep_nothing_are_their_own_call(policy):
    call = policy.start(3)
    call.keep([0])
    assert call is policy and call.speculate(LENGTHS, [1]) and call.choose_size(grown(0, 1, 2, 2), 1) == 7
    assert (policy.max_depth, policy.max_size) == (12, 7)


def test_they_say_what_they_are():
    assert str(DDD(floor=-0.5, size=6)) == "DDD, floor -0.5 after levels 5, 7, 9, depth up to 12, size 6"
    assert str(SVIP()) == "SVIP, factor 0.15, bound 0.7, depth up to 12, size 60"
    assert str(GammaTune(depth=9)) == "GammaTune, depth 5 to 12, rate 0.2, size 60"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDD(floor=math.inf), "floor is inf; it must be a finite number of nats"),
        (lambda: DDD(levels=()), "levels are none; they must ascend"),
        (lambda: DDD(levels=(5, 5)), "levels are 5/5; they must ascend within 1 … 12"),
        (lambda: DDD(levels=(0, 5)), "levels are 0/5"),
        (lambda: DDD(levels=(5, 13)), "levels are 5/13"),
        (lambda: DDD(max_depth=13), "depth 13 is out of range"),
        (lambda: SVIP(size=-1), "size -1 is out of range"),
        (lambda: SVIP(factor=0.0), "factor is 0.0; it must be above 0"),
        (lambda: SVIP(factor=math.nan), "factor is nan; it must be above 0"),
        (lambda: SVIP(bound=1.1), "bound is 1.1; it is a probability"),
        (lambda: GammaTune(depth=-1), "depth -1 is out of range"),
        (lambda: GammaTune(rate=1.5), "rate is 1.5; it must be above 0 and at most 1"),
        (lambda: Static(2.5, 3), "depth is 2.5, but must be a whole number"),
        (lambda: Static(2, "3"), "size is '3', but must be a whole number"),
        (lambda: Static(True, 3), "depth is True, but must be a whole number"),
        (lambda: Static(None), "depth is None, but must be a whole number"),
        (lambda: DDD(floor="low"), "floor is 'low', but must be a number"),
        (lambda: DDD(levels=5), "levels is 5, but must be a list of whole numbers"),
        (lambda: DDD(levels="579"), "levels is '579', but must be a list of whole numbers"),
        (lambda: DDD(levels=(5, 7.5)), "in levels is 7.5, but must be a whole number"),
        (lambda: DDD(size=6.5), "size is 6.5, but must be a whole number"),
        (lambda: SVIP(factor="0.15"), "factor is '0.15', but must be a number"),
        (lambda: SVIP(bound=None), "bound is None, but must be a number"),
        (lambda: SVIP(max_depth=6.0), "depth is 6.0, but must be a whole number"),
        (lambda: GammaTune(rate="fast"), "rate is 'fast', but must be a number"),
        (lambda: GammaTune(depth=7.5), "depth is 7.5, but must be a whole number"),
    ],
)
def test_bad_numbers_are_named(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("form", [np.int64, np.uint8, torch.tensor, lambda number: torch.tensor([number])])
def test_numbers_are_kept_as_pythons_own(form):
    """Those of other libraries are as good; what is asked of a policy later is then always of one type."""
    near = np.float32 if form is np.int64 else torch.tensor
    policies = (
        Static(form(2), form(8), form(4)),
        Lookup(form(8), near(0.5)),
        Both(form(1), form(4), form(8), near(0.5), near(0.25), form(3)),
        DDD(near(-0.5), (form(5), form(7)), form(9), form(6)),
        SVIP(near(0.5), near(0.5), form(9), form(6)),
        GammaTune(form(6), near(0.5), form(6)),
        AtWidth(GammaTune(), form(4)),
        BesideText(Static(1, 4), form(8), near(0.5), near(0.25)),
        Learned(Setting(form(4)), form(2), (form(8),), max_text=form(0), min_depth=form(1)),
        Constant(form(5)),
        Heuristic(form(5), form(9)),
    )
    for policy in policies:
        for field in dataclasses.fields(policy):
            value = getattr(policy, field.name)
            for each in value if isinstance(value, tuple) else (value,):
                assert type(each).__module__ not in ("numpy", "torch"), (policy, field.name)
    for policy in policies[:-2]:
        check_policy(policy, "a policy")
        assert type(beam_width(policy)) in (int, type(None)) and type(text_limit(policy)) is int
    assert policies[0] == Static(2, 8, 4) and policies[2] == Both(1, 4, 8, 0.5, 0.25, 3)


def test_a_tree_without_levels_has_no_entropy():
    with pytest.raises(ValueError, match="the tree has no level yet"):
        newest_entropy(grown(0, 1, 2, 0))


@pytest.mark.parametrize(
    "policy",
    [
        Static(2, 9),
        DDD(floor=-1.0, levels=(1, 2, 4), max_depth=5, size=20),
        SVIP(bound=0.6, max_depth=5, size=20),
        GammaTune(depth=3, size=20),
    ],
    ids=str,
)
def test_greedy_text_is_that_without_a_draft(tiny_target: Callable[[str], Path], policy: Policy) -> None:
    target, known = (AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32) for _ in range(2))
    prompts = [[5, 9, 33], [70, 4, 8, 15, 16]]
    decoder = Decoder(Target(target.eval()), OracleDraft(known.eval(), noise=1.0), policy)
    plain = decoder.generate(prompts, max_new_tokens=24, policy="none")
    answers = decoder.generate(prompts, max_new_tokens=24)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in plain]
    assert decoder.last_statistics.acceptance_length > 1
