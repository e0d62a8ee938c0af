"""The optimum is the best of all schedules, found by trying them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import made_generations, made_latency
from stages import with_plain

from ltd.latency.interpolation import Interpolant
from ltd.lookup import TEXT_FEATURES
from ltd.tree import NOT_ASKED
from ltd_rl.traces.optimum import DraftSchedule, best_static, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, catching_up, outcomes_of, plain_total, total

SIZES = (1, 3, 8)


READING = (0.0, 1.0, 2.0, 4.0, 7.0)
"""Seconds of a draft's beginning after 0, 1, 2 … unread tokens; 3 more for each beyond."""


def reading(unread: int) -> float:
    return READING[unread] if unread < len(READING) else READING[-1] + 3.0 * (unread - len(READING) + 1)


def made_outcomes(
    seed: int, counts: list[int], depths: int = 2, sizes: int = 2, scale: float = 1.0, text: bool = False
) -> Outcomes:
    """Random tables: gains that do not go beyond the ends, seconds of any kind, reading that costs as much `scale`.

    With text, there are gains without the head too; else those cycles are plain.
    """
    generator = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rest = np.concatenate([np.arange(count, 0, -1) for count in counts])
    shape = (len(rest), depths + 1 if text else depths, sizes)
    gains = np.minimum(generator.integers(1, 5, shape), rest[:, None, None])
    seconds = generator.integers(1, 9, shape).astype(np.float32)
    plain = generator.integers(1, 4, len(rest)).astype(np.float32)
    tables = with_plain(gains, seconds, plain)
    if text:
        gains[:, -1, 0], seconds[:, -1, 0] = 1, plain
        features = np.zeros((len(rest), TEXT_FEATURES), dtype=np.float32)
        tables |= {"gains": gains, "seconds": seconds, "text": features, "max_text": 4}
    return Outcomes(
        width=3,
        sizes=tuple(range(1, sizes + 1)),
        starts=starts,
        lengths=np.arange(len(rest)),
        **tables,
        scores=np.zeros((len(rest), 3), dtype=np.float32),
        states=np.zeros((len(rest), 0), dtype=np.float32),
        begin=Interpolant(np.arange(5.0), np.array([1.0]), scale * np.array(READING)[:, None]),
    )


Cycle = tuple[bool, int, float]
"""Whether the head is not asked, its gain, and its seconds."""


def option(outcomes: Outcomes, position: int, depth: int, step: int) -> Cycle:
    """One decision at a position."""
    gain, seconds = (float(table[position, depth, step]) for table in (outcomes.gains, outcomes.seconds))
    return depth == NOT_ASKED, int(gain), seconds


def options(outcomes: Outcomes, position: int) -> list[Cycle]:
    """All decisions at a position, each once."""
    decisions = product(range(-1, outcomes.depth + 1), range(len(outcomes.sizes)))
    return list(dict.fromkeys(option(outcomes, position, *decision) for decision in decisions))


def spent(cycles: list[Cycle], scale: float = 1.0) -> float:
    """Seconds of one generation's cycles. A draft that comes after others without has to read what they gained too."""
    seconds, known, waiting = 0.0, 1, 0
    for silent, gain, took in cycles:
        seconds += took
        if silent:
            waiting += gain
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
            cycles.append(option(outcomes, position, int(schedule.depths[position]), int(schedule.steps[position])))
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


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    scale=st.sampled_from([0.0, 0.25, 1.0, 4.0]),
    text=st.booleans(),
)
def test_the_optimum_is_the_best_of_all_schedules(seed: int, counts: list[int], scale: float, text: bool) -> None:
    outcomes = made_outcomes(seed, counts, depths=1 if text else 2, sizes=2 if text else 1, scale=scale, text=text)
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
    outcomes.plain_seconds[:] = outcomes.seconds[:, NOT_ASKED] = 1
    cheap = replace(outcomes, begin=Interpolant(np.arange(2.0), np.array([1.0]), np.array([[0.0], [0.5]])))
    dear = replace(outcomes, begin=Interpolant(np.arange(2.0), np.array([1.0]), np.array([[0.0], [1.5]])))
    assert optimum(cheap).depths[:3].tolist() == [NOT_ASKED, NOT_ASKED, 0]
    assert optimum(cheap).total.seconds == 2 + 2 * 0.5 + 2
    assert (optimum(dear).depths == NOT_ASKED).all()
    assert optimum(dear).total.seconds == 6


def test_reading_counts_at_the_context_length_of_its_position() -> None:
    begin = Interpolant(np.array([1.0, 9.0]), np.array([0.0, 10.0]), np.array([[0.0, 0.0], [8.0, 16.0]]))
    positions, lengths = np.array([0, 1, 2, 4, 5]), np.array([0, 1, 2, 4, 5])
    plain = np.array([True, True, False, True, False])
    # One second for a token at length 0, two at length 10.
    assert catching_up(begin, positions, plain, lengths) == pytest.approx(1.0 + 1.1 + 1.4)
    assert catching_up(begin, positions, np.ones(5, dtype=bool), lengths) == 0.0
    assert catching_up(begin, positions[:4], plain[:4], lengths[:4]) == pytest.approx(1.0 + 1.1)
    # Two tokens at once, at length 1; then two more at length 4.
    positions = lengths = np.array([0, 1, 3, 4, 6])
    silent = np.array([False, True, False, True, False])
    assert catching_up(begin, positions, silent, lengths) == pytest.approx(2 * 1.1 + 2 * 1.4)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    rate=st.one_of(st.none(), st.floats(0.05, 3.0)),
    text=st.booleans(),
)
def test_hindsight_is_the_best_of_every_cycle(seed: int, counts: list[int], rate: float | None, text: bool) -> None:
    outcomes = made_outcomes(seed, counts, depths=3, sizes=2, text=text)
    found = hindsight(outcomes, rate)
    for position in range(outcomes.positions):
        chosen = option(outcomes, position, int(found.depths[position]), int(found.steps[position]))
        chosen_worth, *worths = [
            gain / seconds if rate is None else gain - rate * seconds
            for _, gain, seconds in [chosen, *options(outcomes, position)]
        ]
        assert chosen_worth == pytest.approx(max(worths), rel=1e-12)
    assert walk(outcomes, found) == (found.total.seconds, found.total.cycles)
    assert optimum(outcomes).total.seconds <= found.total.seconds


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), text=st.booleans())
def test_the_best_fixed_decision_is_the_best_of_the_grid(seed: int, counts: list[int], text: bool) -> None:
    """Without text a tree of the head; with it, the text alone is one of the settings."""
    outcomes = made_outcomes(seed, counts, depths=3, sizes=2, text=text)
    depth, step, found = best_static(outcomes)
    grid = [total(outcomes, d, s).throughput for d in range(-1 if text else 0, 3) for s in range(2)]
    assert found.throughput == max(grid) == total(outcomes, depth, step).throughput
    assert optimum(outcomes).total.throughput >= max(*grid, plain_total(outcomes).throughput)


def test_where_drafting_never_pays_all_is_plain() -> None:
    generations = made_generations(1, [20, 1, 30])
    outcomes = outcomes_of(generations, made_latency(verify_slope=1000.0), SIZES)
    for found in (optimum(outcomes), hindsight(outcomes)):
        assert (found.depths == NOT_ASKED).all()
        assert found.total.cycles == 51
        assert found.total.seconds == pytest.approx(plain_total(outcomes).seconds, rel=1e-6)


def test_real_tables_in_order() -> None:
    outcomes = outcomes_of(made_generations(3, [60, 45, 2]), made_latency(), SIZES)
    best = optimum(outcomes).total.throughput
    greedy = hindsight(outcomes).total.throughput
    assert best >= greedy > best_static(outcomes)[2].throughput
    # The rate at which a cycle's seconds are worth what the optimum makes of them.
    assert hindsight(outcomes, rate=best).total.throughput > best_static(outcomes)[2].throughput
