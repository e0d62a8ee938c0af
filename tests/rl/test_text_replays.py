"""Replays over both sources are the decoder, cycle by cycle."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_outcomes import random_network
from made_texts import made_text
from made_traces import made_latency
from recordings import DEPTH, Recorded, Rounded, Schedule, assert_same, decode
from small_models import FAMILIES

import ltd
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.errors import InputError
from ltd.lookup import TEXT_FEATURES, TextScores
from ltd.lookup.scores import default_text_scores
from ltd.policies import Learned, Policy, Static
from ltd.policies.base import text_limit
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.observations import decided
from ltd_rl.traces.outcomes import Total, outcomes_of
from ltd_rl.traces.replay import replay
from ltd_rl.traces.text import TextProposals, propose_everywhere

KNOTS = np.array([-6, -1], np.float32), np.array([-5, -0.5], np.float32)
SCORES = TextScores(default_text_scores().chances, *KNOTS)
RULES = (ltd.Lookup(1), ltd.Lookup(64), ltd.Both(0, 2, 8), ltd.Both(2, 6, 16, alone=0.4), ltd.Both(4, 30, 64))


def looked_up(generation: RecordedGeneration, policy: Policy) -> TextProposals:
    return propose_everywhere(generation, SCORES, text_limit(policy))


@pytest.fixture
def both(recorded: Callable[[str], Recorded]) -> Callable[[str], Recorded]:
    """The recordings, with a decoder that knows the scores of the text."""

    def get(family: str) -> Recorded:
        run = recorded(family)
        decoder = copy(run.decoder)
        decoder.text_scores = SCORES
        return replace(run, decoder=decoder)

    return get


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", RULES, ids=str)
def test_a_rule_is_the_decoder(both: Callable[[str], Recorded], family: str, policy: Policy) -> None:
    run = both(family)
    for generation in run.traces.generations:
        cycles = replay(generation, policy, text=looked_up(generation, policy))
        assert_same(cycles, decode(run.decoder, generation, policy))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data(), most=st.sampled_from([1, 5, 32, 64]))
def test_any_schedule_is_the_decoder(both: Callable[[str], Recorded], draw: st.DataObject, most: int) -> None:
    run = both(draw.draw(st.sampled_from(["llama", "qwen3"])))
    generation = draw.draw(st.sampled_from(run.traces.generations))
    count = generation.positions
    depths = draw.draw(st.lists(st.integers(-1, DEPTH), min_size=count, max_size=count))
    sizes = draw.draw(st.lists(st.one_of(st.integers(0, 30), st.integers(0, 512)), min_size=count, max_size=count))
    policy = Schedule(generation, depths, sizes, max_text=most)
    text = looked_up(generation, policy)
    real = decode(run.decoder, generation, policy)
    assert_same(replay(generation, (np.array(depths), np.array(sizes)), text=text), real)
    assert_same(replay(generation, policy, text=text), real)


def test_the_two_sources_and_the_text_alone_both_gain(both: Callable[[str], Recorded]) -> None:
    generations = [generation for family in FAMILIES for generation in both(family).traces.generations]
    whole = [replay(generation, (DEPTH, 60), text=looked_up(generation, ltd.Lookup(64))) for generation in generations]
    alone = [replay(generation, (-1, 60), text=looked_up(generation, ltd.Lookup(64))) for generation in generations]
    heads = [replay(generation, (DEPTH, 60)) for generation in generations]
    most = [max(cycles.gains.max() for cycles in each) for each in (whole, alone, heads)]
    counts = [sum(len(cycles.gains) for cycles in each) for each in (whole, alone, heads)]
    assert most[0] > most[2]  # deeper than the head drafts
    assert counts[0] < counts[2]
    assert most[1] > 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("costs", [None, Costs(0.4, 0.3, (1.0, 1.1, 1.4, 2.0), 0.01)])
def test_a_learned_policy_is_the_decoder(both: Callable[[str], Recorded], family: str, costs: Costs | None) -> None:
    """And where it is asked everywhere at once, it decides the same."""
    run, layout = both(family), Summary(best=24, newest=8, states=32, text=TEXT_FEATURES)
    depths, sizes = set(), set()
    for seed in range(6):
        depth, size = random_network(layout, 2, seed), random_network(layout, 4, seed + 100)
        networks = {"depth_network": depth, "size_network": size, "max_text": 16, "text_scores": SCORES}
        policy = Learned(Setting(10), DEPTH, (0, 2, 6, 20), costs=costs, **networks)
        again, tokens, count = replace(policy), 0, 0  # with its own allowance, which goes on from answer to answer
        for generation in run.traces.generations:
            cycles = replay(generation, policy, text=looked_up(generation, policy))
            assert_same(cycles, decode(run.decoder, generation, Rounded(again)))
            depths |= set(cycles.depths.tolist())
            sizes |= set(cycles.sizes.tolist())
            tokens, count = tokens + int(cycles.gains.sum()), count + len(cycles.gains)
        if costs is None:
            generations = run.traces.generations
            outcomes = outcomes_of(generations, made_latency(width=DEFAULT_WIDTH), policy.sizes, text=SCORES, most=16)
            found = decided(policy, outcomes)
            assert found == Total(tokens, found.seconds, count)
    assert -1 in depths and len(depths) > 2 and len(sizes) > 2


def test_policies_of_the_head_alone_do_without(recorded: Callable[[str], Recorded]) -> None:
    generation = recorded("llama").traces.generations[0]
    text = propose_everywhere(generation, SCORES, 8)
    assert_same(replay(generation, Static(2, 9), text=text), replay(generation, (2, 9)))


def test_proposals_must_be_such_as_the_policy_sees() -> None:
    generation, _ = made_text(1, 9)
    with pytest.raises(InputError, match="up to 8 candidates up in the text; give such proposals, there are none"):
        replay(generation, ltd.Lookup(8))
    with pytest.raises(InputError, match="these are of up to 4"):
        replay(generation, ltd.Lookup(8), text=propose_everywhere(generation, SCORES, 4))
    with pytest.raises(InputError, match="depth -2 is out of range; it must be -1 … 2"):
        replay(generation, (-2, 3), text=propose_everywhere(generation, SCORES, 4))
