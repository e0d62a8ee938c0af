"""The optimum is the best of all schedules, found by trying them all."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import made_generations, made_latency

from ltd_rl.traces.optimum import PLAIN, DraftSchedule, best_static, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, plain_total, total

SIZES = (1, 3, 8)


def made_outcomes(seed: int, counts: list[int], depths: int = 2, sizes: int = 2) -> Outcomes:
    """Random tables: gains that do not go beyond the ends, seconds of any kind."""
    generator = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rest = np.concatenate([np.arange(count, 0, -1) for count in counts])
    shape = (len(rest), depths, sizes)
    return Outcomes(
        width=3,
        sizes=tuple(range(1, sizes + 1)),
        starts=starts,
        lengths=np.arange(len(rest)),
        gains=np.minimum(generator.integers(1, 5, shape), rest[:, None, None]),
        seconds=generator.integers(1, 9, shape).astype(np.float32),
        plain_seconds=generator.integers(1, 4, len(rest)).astype(np.float32),
        scores=np.zeros((len(rest), 3), dtype=np.float32),
        states=np.zeros((len(rest), 0), dtype=np.float32),
    )


def options(outcomes: Outcomes, position: int) -> list[tuple[int, float]]:
    """Gain and seconds of all decisions at a position."""
    drafts = zip(outcomes.gains[position].ravel().tolist(), outcomes.seconds[position].ravel().tolist(), strict=True)
    return [(1, float(outcomes.plain_seconds[position])), *drafts]


def walk(outcomes: Outcomes, schedule: DraftSchedule) -> tuple[float, int]:
    """Seconds and cycles of a schedule, cycle by cycle."""
    seconds, cycles = 0.0, 0
    for first, end in zip(outcomes.starts[:-1].tolist(), outcomes.starts[1:].tolist(), strict=True):
        position = first
        while position < end:
            depth, step = int(schedule.depths[position]), int(schedule.steps[position])
            plain = depth == PLAIN
            seconds += float(outcomes.plain_seconds[position] if plain else outcomes.seconds[position, depth, step])
            position += 1 if plain else int(outcomes.gains[position, depth, step])
            cycles += 1
        assert position == end
    return seconds, cycles


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_the_optimum_is_the_best_of_all_schedules(seed: int, counts: list[int]) -> None:
    outcomes = made_outcomes(seed, counts, depths=2, sizes=1)
    least = 0.0
    for first, end in zip(outcomes.starts[:-1].tolist(), outcomes.starts[1:].tolist(), strict=True):
        times = []
        for decisions in product(*(options(outcomes, position) for position in range(first, end))):
            position, seconds = first, 0.0
            while position < end:
                gain, cost = decisions[position - first]
                position, seconds = position + gain, seconds + cost
            times.append(seconds)
        least += min(times)
    found = optimum(outcomes)
    assert found.total.seconds == least
    assert walk(outcomes, found) == (least, found.total.cycles)
    assert found.total.tokens == sum(counts)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    rate=st.one_of(st.none(), st.floats(0.05, 3.0)),
)
def test_hindsight_is_the_best_of_every_cycle(seed: int, counts: list[int], rate: float | None) -> None:
    outcomes = made_outcomes(seed, counts, depths=3, sizes=2)
    found = hindsight(outcomes, rate)
    for position in range(outcomes.positions):
        worths = [g / s if rate is None else g - rate * s for g, s in options(outcomes, position)]
        depth, step = int(found.depths[position]), int(found.steps[position])
        choice = 0 if depth == PLAIN else 1 + depth * 2 + step
        assert worths[choice] == pytest.approx(max(worths), rel=1e-12)
    assert walk(outcomes, found) == (found.total.seconds, found.total.cycles)
    assert optimum(outcomes).total.seconds <= found.total.seconds


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_the_best_fixed_decision_is_the_best_of_the_grid(seed: int, counts: list[int]) -> None:
    outcomes = made_outcomes(seed, counts, depths=3, sizes=2)
    depth, step, found = best_static(outcomes)
    grid = [total(outcomes, d, s).throughput for d in range(3) for s in range(2)]
    assert found.throughput == max(grid) == total(outcomes, depth, step).throughput
    assert optimum(outcomes).total.throughput >= max(*grid, plain_total(outcomes).throughput)


def test_where_drafting_never_pays_all_is_plain() -> None:
    generations = made_generations(1, [20, 1, 30])
    outcomes = outcomes_of(generations, made_latency(verify_slope=1000.0), SIZES)
    for found in (optimum(outcomes), hindsight(outcomes)):
        assert (found.depths == PLAIN).all()
        assert found.total.cycles == 51
        assert found.total.seconds == pytest.approx(plain_total(outcomes).seconds, rel=1e-6)


def test_real_tables_in_order() -> None:
    outcomes = outcomes_of(made_generations(3, [60, 45, 2]), made_latency(), SIZES)
    best = optimum(outcomes).total.throughput
    greedy = hindsight(outcomes).total.throughput
    assert best >= greedy > best_static(outcomes)[2].throughput
    # The rate at which a cycle's seconds are worth what the optimum makes of them.
    assert hindsight(outcomes, rate=best).total.throughput > best_static(outcomes)[2].throughput
