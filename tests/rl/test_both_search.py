"""The search for the best fixed tree of both sources: its replays are the decoder's cycles, and it finds the best."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from made_texts import made_copies
from made_traces import made_generations, made_latency

from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Both, Lookup
from ltd_rl.baselines.both_search import (
    DEEPEST,
    FINE,
    Grid,
    best_both,
    ground_of_text,
    rule_decisions,
    spent,
    total_of_rule,
)
from ltd_rl.traces.format import RecordedGeneration, shallow
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.optimum import best_static
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


def by_tables(
    rule: Both | Lookup, generations: list[RecordedGeneration], latency: LatencyModel, scores: TextScores
) -> Total:
    """What a rule comes to by tables of every size."""
    sizes = range(rule.max_size + 1)
    outcomes = outcomes_of(generations, latency, sizes, text=scores, most=rule.max_text)
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
    found = spent(ground, *rule_decisions(rule, ground.chances))
    expected = by_tables(rule, generations, made_latency(), scores)
    assert (found.tokens, found.cycles) == (expected.tokens, expected.cycles)
    assert found.seconds == pytest.approx(expected.seconds, rel=1e-6)


def test_a_shorter_lookup_proposes_the_first(generations: list[RecordedGeneration]) -> None:
    scores = fit_text_scores(generations, 24)
    for most in (1, 5, 24):
        first = likeliest(propose_everywhere(generations[0], scores, 24), most)
        own = propose_everywhere(generations[0], scores, most)
        for name in ("tokens", "parents", "scores", "chances", "counts", "cells"):
            np.testing.assert_array_equal(getattr(first, name), getattr(own, name))


@pytest.mark.parametrize("slope", [0.12, 0.6])
def test_it_finds_the_best(slope: float, generations: list[RecordedGeneration]) -> None:
    latency, scores = made_latency(slope), fit_text_scores(generations, 24)
    generations, grid = generations[:3], Grid((2, 8), (0, 2, 5), (0.4, 1.0))
    rule, found = best_both([*generations, *made_generations(1, [0])], latency, scores, grid)
    depth, step, _ = best_static(outcomes_of(generations, latency, EVERY_SIZE))
    sizes = {*grid.sizes, *(size for size in EVERY_SIZE if 5 < size <= EVERY_SIZE[step])}
    assert depth <= DEEPEST and (len(sizes) > 3) == (slope == 0.12)
    every = [Both(d, s, t, a) for t, d, s, a in product(grid.texts, range(DEEPEST + 1), sorted(sizes), grid.alone)]
    throughputs = {each: by_tables(each, generations, latency, scores).throughput for each in every}
    assert found.throughput == pytest.approx(max(throughputs.values()), rel=1e-6)
    assert throughputs[rule] == pytest.approx(found.throughput, rel=1e-6)
    assert len({round(rate, 6) for rate in throughputs.values()}) > 12


def test_where_forwards_are_cheap_trees_are_as_large_as_the_best_without_text() -> None:
    sure = [made_copies(seed, 50, depth=6) for seed in range(4)]
    made, scores = made_latency(0.0), fit_text_scores(sure, 24)
    expand = made.parts["expand"]
    latency = replace(made, parts={**made.parts, "expand": replace(expand, median=expand.median / 100)})
    depth, step, _ = best_static(outcomes_of(sure, latency, EVERY_SIZE))
    assert depth > DEEPEST and EVERY_SIZE[step] > FINE.sizes[-1]
    rule, found = best_both(sure, latency, scores, Grid((2, 8), FINE.sizes, (0.4, 1.0)))
    assert rule.depth > DEEPEST and rule.size > FINE.sizes[-1]
    small = [Both(d, s, t, a) for t, d, s, a in product((2, 8), range(DEEPEST + 1), FINE.sizes, (0.4, 1.0))]
    assert found.throughput > max(by_tables(each, sure, latency, scores).throughput for each in small)
    assert total_of_rule(rule, sure, latency, scores).throughput == pytest.approx(found.throughput, rel=1e-6)


def test_there_must_be_something_to_search_on() -> None:
    scores = fit_text_scores([made_copies(1, 5)], 4)
    with pytest.raises(InputError, match="record longer answers"):
        best_both(made_generations(1, [0]), made_latency(), scores)
    undrafted = shallow(made_copies(1, 5), -1)
    assert undrafted.scores.shape == (5, 0) and undrafted.depth == -1
    with pytest.raises(InputError, match="without a draft"):
        best_both([undrafted], made_latency(), scores)
