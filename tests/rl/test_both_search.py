"""The search for the best fixed tree of both sources: its replays are the decoder's cycles, and it finds the best."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from made_texts import made_copies
from made_traces import made_generations, made_latency

from ltd.errors import InputError
from ltd.policies import Both, Lookup
from ltd_rl.baselines import both_search
from ltd_rl.baselines.both_search import best_both, ground_of_text, rule_decisions, spent
from ltd_rl.traces.format import RecordedGeneration, shallow
from ltd_rl.traces.outcomes import Total, outcomes_of, total
from ltd_rl.traces.replay import replay
from ltd_rl.traces.text import likeliest, propose_everywhere
from ltd_rl.traces.text_fit import fit_text_scores

RULES = (
    Both(1, 3, 6, 0.5),
    Both(0, 0, 2, 1.0),
    Both(2, 4, 12, 0.3, least=0.3),
    Both(3, 8, 24, 0.8, least=0.0),
    Lookup(4),
    Lookup(24, least=0.4),
)


@pytest.fixture(scope="module")
def generations() -> list[RecordedGeneration]:
    return [made_copies(seed, 50) for seed in range(6)]


def by_tables(rule: Both | Lookup, generations: list[RecordedGeneration]) -> Total:
    """What a rule comes to by tables of every size."""
    scores = fit_text_scores(generations, 24)
    sizes = range(rule.max_size + 1)
    outcomes = outcomes_of(generations, made_latency(), sizes, text=scores, most=rule.max_text)
    chances = np.concatenate([propose_everywhere(g, scores, rule.max_text).chances for g in generations])
    return total(outcomes, *rule_decisions(rule, chances))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_decides_everywhere_as_cycle_by_cycle(
    rule: Both | Lookup, generations: list[RecordedGeneration]
) -> None:
    scores = fit_text_scores(generations, 24)
    for generation in generations:
        proposals = likeliest(propose_everywhere(generation, scores, 24), rule.max_text)
        live = replay(generation, rule, text=proposals)
        at_once = replay(generation, rule_decisions(rule, proposals.chances), text=proposals)
        for name in ("positions", "depths", "sizes", "gains"):
            np.testing.assert_array_equal(getattr(live, name), getattr(at_once, name))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_spent_is_what_the_tables_say(rule: Both | Lookup, generations: list[RecordedGeneration]) -> None:
    scores, depth = fit_text_scores(generations, 24), max(rule.max_depth, 1)
    shallower = [shallow(generation, depth) for generation in generations]
    proposals = [likeliest(propose_everywhere(g, scores, 24), rule.max_text) for g in generations]
    ground = ground_of_text(shallower, proposals, made_latency())
    found, expected = spent(ground, *rule_decisions(rule, ground.chances)), by_tables(rule, generations)
    assert (found.tokens, found.cycles) == (expected.tokens, expected.cycles)
    assert found.seconds == pytest.approx(expected.seconds, rel=1e-6)


def test_a_shorter_lookup_proposes_the_first(generations: list[RecordedGeneration]) -> None:
    scores = fit_text_scores(generations, 24)
    for most in (1, 5, 24):
        first = likeliest(propose_everywhere(generations[0], scores, 24), most)
        own = propose_everywhere(generations[0], scores, most)
        for name in ("tokens", "parents", "scores", "chances", "counts", "cells"):
            np.testing.assert_array_equal(getattr(first, name), getattr(own, name))


def test_it_finds_the_best(generations: list[RecordedGeneration], monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {"SIZES": (0, 2, 5), "TEXTS": (2, 8), "ALONE": (0.4, 1.0)}
    for name, values in (tried | {"DEEPEST": 2}).items():
        monkeypatch.setattr(both_search, name, values)
    generations = generations[:3]
    rule, found = best_both([*generations, *made_generations(1, [0])], made_latency(), fit_text_scores(generations, 24))
    every = [Both(d, s, t, a) for d, s, t, a in product(range(3), *tried.values())]
    throughputs = {each: by_tables(each, generations).throughput for each in every}
    assert found.throughput == pytest.approx(max(throughputs.values()), rel=1e-6)
    assert throughputs[rule] == pytest.approx(found.throughput, rel=1e-6)
    assert len({round(rate, 6) for rate in throughputs.values()}) > 12


def test_there_must_be_something_to_search_on() -> None:
    scores = fit_text_scores([made_copies(1, 5)], 4)
    with pytest.raises(InputError, match="record longer answers"):
        best_both(made_generations(1, [0]), made_latency(), scores)
    undrafted = shallow(made_copies(1, 5), -1)
    assert undrafted.scores.shape == (5, 0) and undrafted.depth == -1
    with pytest.raises(InputError, match="without a draft"):
        best_both([undrafted], made_latency(), scores)
