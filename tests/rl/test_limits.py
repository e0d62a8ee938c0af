"""Which choices are worth having."""

from __future__ import annotations

import numpy as np
import pytest
from made_traces import made_generations, made_latency

from ltd_rl.traces.limits import EVERY_SIZE, relative_costs, summary_for, worthwhile
from ltd_rl.traces.optimum import optimum
from ltd_rl.traces.outcomes import outcomes_of


@pytest.mark.parametrize("slope", [0.001, 0.12, 3.0])
def test_the_optimum_loses_next_to_nothing_by_the_limits(slope: float) -> None:
    generations, latency = made_generations(3, [60, 80]), made_latency(slope)
    sizes, depth = worthwhile(generations, latency)
    assert sizes == EVERY_SIZE[: len(sizes)]
    limited = optimum(outcomes_of(generations, latency, sizes, depth)).total
    free = optimum(outcomes_of(generations, latency, EVERY_SIZE)).total
    assert 0.99 * free.seconds <= free.seconds <= limited.seconds <= 1.02 * free.seconds


def test_dearer_verification_means_smaller_trees() -> None:
    generations = made_generations(3, [60, 80])
    ladders = [worthwhile(generations, made_latency(slope))[0] for slope in (0.001, 0.12, 3.0)]
    assert len(ladders[0]) >= len(ladders[1]) > len(ladders[2]) >= 2


def test_large_trees_are_shown_by_more_scores() -> None:
    assert summary_for((1, 60)).best > summary_for((1, 16)).best


def test_costs_are_in_plain_tokens() -> None:
    latency = made_latency()
    outcomes = outcomes_of(made_generations(3, [40]), latency, (0, 1, 8))
    costs, length = relative_costs(outcomes, latency), float(np.median(outcomes.lengths))
    for depth in (0, 3):
        for step, size in enumerate(outcomes.sizes):
            exact = latency.cycle(depth, size, length, 2) / latency.plain(length)
            assert costs.of(depth, step) == pytest.approx(float(exact), rel=1e-6)
