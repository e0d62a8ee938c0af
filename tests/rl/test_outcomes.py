"""Tables of gains and costs against replays and the latency model, decision by decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import made_generations, made_latency

from ltd.errors import InputError
from ltd_rl.traces.outcomes import outcomes_of, plain_total, split, total, visited
from ltd_rl.traces.replay import replay

SIZES = (0, 1, 3, 8)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    data=st.data(),
)
def test_totals_are_those_of_replays(seed: int, counts: list[int], data: st.DataObject) -> None:
    generations, latency = made_generations(seed, counts), made_latency()
    outcomes = outcomes_of(generations, latency, SIZES)
    generator = np.random.default_rng(seed)
    depths = generator.integers(0, outcomes.depth + 1, outcomes.positions)
    steps = generator.integers(0, len(SIZES), outcomes.positions)
    found = total(outcomes, depths, steps)
    tokens, seconds, cycles = 0, 0.0, 0
    for number, generation in enumerate(generations):
        rows = slice(outcomes.starts[number], outcomes.starts[number + 1])
        done = replay(generation, (depths[rows], np.array(SIZES)[steps[rows]]))
        lengths = generation.prompt_length + done.positions
        tokens += int(done.gains.sum())
        cycles += len(done.gains)
        for depth, size, length, gain in zip(done.depths, done.sizes, lengths, done.gains, strict=True):
            seconds += float(latency.cycle(depth, size, length, gain))
    assert (found.tokens, found.cycles) == (tokens, cycles)
    assert found.seconds == pytest.approx(seconds, rel=1e-5)
    assert found.throughput == pytest.approx(tokens / seconds, rel=1e-5)
    assert found.acceptance_length == tokens / cycles


def test_plain_decoding_takes_a_cycle_per_token() -> None:
    generations, latency = made_generations(1, [5, 9]), made_latency()
    found = plain_total(outcomes_of(generations, latency, SIZES))
    expected = sum(float(latency.plain(g.prompt_length + p)) for g in generations for p in range(g.positions))
    assert (found.tokens, found.cycles) == (14, 14)
    assert found.seconds == pytest.approx(expected, rel=1e-5)


def test_a_part_is_the_outcomes_of_its_generations() -> None:
    generations, latency = made_generations(2, [4, 6, 3]), made_latency()
    part = split(outcomes_of(generations, latency, SIZES), [0, 2])
    expected = outcomes_of([generations[0], generations[2]], latency, SIZES)
    assert part.sizes == expected.sizes
    for name in ("starts", "lengths", "gains", "seconds", "plain_seconds", "scores", "states", "ends"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name), err_msg=name)


def test_generations_without_cycles_are_left_out() -> None:
    generations, latency = made_generations(3, [4, 0, 2]), made_latency()
    assert outcomes_of(generations, latency, SIZES).starts.tolist() == [0, 4, 6]


def test_visits_begin_anew_in_every_generation() -> None:
    seen = visited(np.array([2, 1, 5, 1, 3, 1]), np.array([0, 3, 6]))
    assert seen.tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize(
    ("counts", "sizes", "depth", "complaint"),
    [
        ([], (1,), None, "no cycle"),
        ([0], (1,), None, "no cycle"),
        ([4], (), None, "no ladder"),
        ([4], (3, 1), None, "no ladder"),
        ([4], (1, 1), None, "no ladder"),
        ([4], (-1, 1), None, "no ladder"),
        ([4], (1, 513), None, "no ladder"),
        ([4], (1,), 4, "depth 4 is out of range"),
        ([4], (1,), -1, "depth -1"),
    ],
)
def test_bad_input(counts: list[int], sizes: Any, depth: int | None, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        outcomes_of(made_generations(1, counts), made_latency(), sizes, depth)
