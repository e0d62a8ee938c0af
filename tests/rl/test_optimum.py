"""The optimum is the best of all schedules, found by trying them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import made_generations, made_latency

from ltd.latency.interpolation import Interpolant
from ltd_rl.traces.optimum import DraftSchedule, best_static, hindsight, optimum
from ltd_rl.traces.outcomes import PLAIN, Outcomes, catching_up, outcomes_of, plain_total, total

SIZES = (1, 3, 8)


READING = (0.0, 1.0, 2.0, 4.0, 7.0)
"""Seconds of a draft's beginning after 0, 1, 2 … unread tokens; 3 more for each beyond."""


def reading(unread: int) -> float:
    return READING[unread] if unread < len(READING) else READING[-1] + 3.0 * (unread - len(READING) + 1)


def made_outcomes(seed: int, counts: list[int], depths: int = 2, sizes: int = 2, scale: float = 1.0) -> Outcomes:
    """Random tables: gains that do not go beyond the ends, seconds of any kind, reading that costs as much `scale`."""
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
        begin=Interpolant(np.arange(5.0), np.array([1.0]), scale * np.array(READING)[:, None]),
    )


Cycle = tuple[bool, int, float]
"""Whether it is plain, its gain, and its seconds."""


def options(outcomes: Outcomes, position: int) -> list[Cycle]:
    """All decisions at a position."""
    drafts = zip(outcomes.gains[position].ravel().tolist(), outcomes.seconds[position].ravel().tolist(), strict=True)
    plain = (True, 1, float(outcomes.plain_seconds[position]))
    return [plain, *((False, gain, seconds) for gain, seconds in drafts)]


def spent(cycles: list[Cycle], scale: float = 1.0) -> float:
    """Seconds of one generation's cycles. A draft that comes after plain cycles has to read what they gained too."""
    seconds, known, waiting = 0.0, 1, 0
    for plain, gain, took in cycles:
        seconds += took
        if plain:
            waiting += 1
        else:
            seconds += scale * (reading(known + waiting) - reading(known))
            known, waiting = gain, 0
    return seconds


def walk(outcomes: Outcomes, schedule: DraftSchedule, scale: float = 1.0) -> tuple[float, int]:
    """Seconds and cycles of a schedule, cycle by cycle."""
    seconds, count = 0.0, 0
    for first, end in zip(outcomes.starts[:-1].tolist(), outcomes.starts[1:].tolist(), strict=True):
        position, cycles = first, []
        while position < end:
            depth, step = int(schedule.depths[position]), int(schedule.steps[position])
            choice = 0 if depth == PLAIN else 1 + depth * len(outcomes.sizes) + step
            cycles.append(options(outcomes, position)[choice])
            position += cycles[-1][1]
        assert position == end
        seconds, count = seconds + spent(cycles, scale), count + len(cycles)
    return seconds, count


def every_way(outcomes: Outcomes, position: int, end: int) -> Iterator[list[Cycle]]:
    """All schedules from a position to the end of its generation."""
    if position == end:
        yield []
        return
    for cycle in options(outcomes, position):
        for rest in every_way(outcomes, position + cycle[1], end):
            yield [cycle, *rest]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    scale=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
)
def test_the_optimum_is_the_best_of_all_schedules(seed: int, counts: list[int], scale: float) -> None:
    outcomes = made_outcomes(seed, counts, depths=2, sizes=1, scale=scale)
    generations = zip(outcomes.starts[:-1].tolist(), outcomes.starts[1:].tolist(), strict=True)
    least = sum(min(spent(way, scale) for way in every_way(outcomes, *ends)) for ends in generations)
    found = optimum(outcomes)
    assert found.total.seconds == least
    assert walk(outcomes, found, scale) == (least, found.total.cycles)
    assert found.total.tokens == sum(counts)


def test_a_draft_catches_up_only_if_it_is_used_again() -> None:
    """Two plain tokens are the best beginning; whether a draft then pays depends on what it has to read."""
    outcomes = made_outcomes(0, [6], depths=1, sizes=1)
    outcomes.gains[:, 0, 0] = [1, 1, 4, 1, 1, 1]
    outcomes.seconds[:, 0, 0] = [9, 9, 2, 9, 9, 9]
    outcomes.plain_seconds[:] = 1
    cheap = replace(outcomes, begin=Interpolant(np.arange(2.0), np.array([1.0]), np.array([[0.0], [0.5]])))
    dear = replace(outcomes, begin=Interpolant(np.arange(2.0), np.array([1.0]), np.array([[0.0], [1.5]])))
    assert optimum(cheap).depths[:3].tolist() == [PLAIN, PLAIN, 0]
    assert optimum(cheap).total.seconds == 2 + 2 * 0.5 + 2
    assert (optimum(dear).depths == PLAIN).all()
    assert optimum(dear).total.seconds == 6


def test_reading_counts_at_the_context_length_of_its_position() -> None:
    begin = Interpolant(np.array([1.0, 9.0]), np.array([0.0, 10.0]), np.array([[0.0, 0.0], [8.0, 16.0]]))
    positions, lengths = np.array([0, 1, 2, 4, 5]), np.array([0, 1, 2, 4, 5])
    plain = np.array([True, True, False, True, False])
    # One second for a token at length 0, two at length 10.
    assert catching_up(begin, positions, plain, lengths) == pytest.approx(1.0 + 1.1 + 1.4)
    assert catching_up(begin, positions, np.ones(5, dtype=bool), lengths) == 0.0
    assert catching_up(begin, positions[:4], plain[:4], lengths[:4]) == pytest.approx(1.0 + 1.1)


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
        worths = [g / s if rate is None else g - rate * s for _, g, s in options(outcomes, position)]
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
