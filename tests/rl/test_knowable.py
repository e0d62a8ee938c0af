"""The knowable, on toys where it is known: by trying all policies that could see what can be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outcomes import made_up
from made_traces import made_generations, made_latency
from toy_outcomes import told, toy

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.tree import NOT_ASKED
from ltd_rl.analysis import knowable as knowables
from ltd_rl.analysis.knowable import check_questions, choose, expected_seconds, explained, folds_of, knowable, numbered
from ltd_rl.analysis.known import WINDOWS, Known, right_lately
from ltd_rl.analysis.predictors import BigNetwork, Boosting, Predictor, ahead, principal
from ltd_rl.analysis.ways import TaskGround, decided_before
from ltd_rl.traces.optimum import best_static, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, reading_more, total

SMALL: dict[str, Callable[[], Predictor]] = {
    "boosting": lambda: Boosting(trees=30, rate=0.2, patience=5),
    "network": lambda: BigNetwork(hidden=(32,), epochs=6, patience=3, batch=96, learning_rate=1e-2),
}


@pytest.fixture(autouse=True)
def few_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowables, "FOLDS", 3)


def reading_counted(outcomes: Outcomes) -> Outcomes:
    """Toys leave out that the draft reads what a cycle gained; in true tables it is in the cycle's seconds."""
    seconds = outcomes.seconds.copy()
    seconds[:, :NOT_ASKED] += outcomes.begin(outcomes.gains[:, :NOT_ASKED], outcomes.lengths[:, None, None])
    return replace(outcomes, seconds=seconds)


def cheap(seed: int) -> Outcomes:
    """The toy with cheaper trees: drafting pays, most of it where the scores are high."""
    made, depths = toy(seed, 9, 80), np.arange(3)[:, None]
    seconds = made.seconds.copy()
    seconds[:, :-1] = 1 + 0.3 * depths + 0.1 * np.array(made.sizes)
    return reading_counted(replace(made, seconds=seconds))


def every_policy(outcomes: Outcomes, classes: Integers) -> tuple[float, Integers, Integers]:
    """The best policy that sees which of the classes a position is of, once the draft was asked, or never asks it.

    Its throughput, depths and steps.
    """
    asking = list(product(range(outcomes.depth + 1), range(len(outcomes.sizes))))
    count = int(classes.max()) + 1
    policies = [
        np.array(chosen).T[:, classes] for chosen in (*product(asking, repeat=count), ((NOT_ASKED, 0),) * count)
    ]
    found = [(total(outcomes, *policy).throughput, *policy) for policy in policies]
    return max(found, key=lambda entry: entry[0])


@pytest.mark.parametrize("name", SMALL)
def test_where_the_scores_tell_the_gain_it_is_the_best_policy(name: str) -> None:
    outcomes = cheap(1)
    easy = (outcomes.scores[:, 0] > -4).astype(np.int64)
    found = knowable(outcomes, range(9), SMALL[name])
    reached = total(outcomes, found.depths, found.steps).throughput
    best, depths, steps = every_policy(outcomes, easy)
    assert np.mean((found.depths == depths) & (found.steps == steps)) > 0.97
    assert reached == pytest.approx(best, rel=0.02) and reached > 1.1 * best_static(outcomes)[2].throughput
    assert reached <= optimum(outcomes).total.throughput
    assert found.explained > 0.9


@pytest.mark.parametrize("name", SMALL)
def test_where_nothing_tells_the_gain_it_is_the_best_fixed_decision(name: str) -> None:
    outcomes = cheap(2)
    outcomes = replace(outcomes, scores=np.random.default_rng(0).permutation(outcomes.scores))
    found = knowable(outcomes, range(9), SMALL[name])
    depth, step, best = best_static(outcomes)
    reached, static = total(outcomes, found.depths, found.steps).throughput, best.throughput
    assert np.mean((found.depths == depth) & (found.steps == step)) > 0.9
    assert reached == pytest.approx(static, rel=0.02)
    assert optimum(outcomes).total.throughput > 1.1 * static
    assert abs(found.explained) < 0.05


@pytest.mark.parametrize("name", SMALL)
def test_what_the_text_tells_is_known_before_the_draft_is_asked(name: str) -> None:
    outcomes = reading_counted(told(3, 24))
    found = knowable(outcomes, range(24), SMALL[name])
    reached = total(outcomes, found.depths, found.steps).throughput
    knows, easy = outcomes.text[:, 0] > 0, outcomes.scores[:, 0] > -4
    assert np.mean((found.depths == NOT_ASKED)[knows & ~easy]) > 0.8  # the text alone gains 5 for 1.8 seconds
    assert reached > 1.1 * best_static(outcomes)[2].throughput


# --- nothing is seen that is not known ---


@dataclass
class Watched:
    """Notes what it learns from and is asked about; says what `says` of the outcomes."""

    seen: list[tuple[Integers, Integers]] = field(default_factory=list)
    asked: list[tuple[Integers, int]] = field(default_factory=list)
    ticks: int = 2
    says: Callable[[Outcomes], Floats] = lambda outcomes: outcomes.gains.astype(np.float32)

    def fit(self, known: Known, rows: Integers, checked: Integers, tick: Callable[[], None]) -> None:
        self.seen.append((rows, checked))
        tick()

    def predict(self, known: Known, rows: Integers, stage: int) -> Floats:
        self.asked.append((rows, stage))
        return self.says(known.outcomes)[rows]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_question_is_learned_from_and_judged_on(count: int) -> None:
    outcomes, made = made_up(0, tuple([5, 3] * count)), list[Watched]()
    questions = [("task", number // 2) for number in range(2 * count)]  # two turns each

    def make() -> Watched:
        made.append(Watched())
        return made[-1]

    knowable(outcomes, questions, make)
    asked = np.repeat(numbered(questions), np.diff(outcomes.starts))
    predicted = np.zeros(outcomes.positions, dtype=int)
    for each in made:
        if not each.seen:
            continue  # it only said how often it reports
        (rows, checked), *others = each.seen
        assert not others and len(rows) and len(checked)
        known = set(asked[rows]) | set(asked[checked])
        assert count == 2 or not set(asked[rows]) & set(asked[checked])
        stages = [stage for _, stage in each.asked]
        assert stages == list(Known(outcomes).stages)
        for judged, _ in each.asked:
            assert not known & set(asked[judged]) and known | set(asked[judged]) == set(range(count))
        predicted[each.asked[0][0]] += 1
    assert np.all(predicted == 1)


def test_one_question_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    check_questions([("a", 1), ("a", 2)])
    with pytest.raises(InputError, match="record at least 2"):
        check_questions([("a", 1), ("a", 1)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs scikit-learn"):
        check_questions([("a", 1), ("a", 2)])


def test_folds_are_even() -> None:
    assert np.bincount(folds_of(10)).tolist() == [4, 3, 3] and np.bincount(folds_of(2)).tolist() == [1, 1]
    assert numbered(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), text=st.booleans(), counts=st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_what_was_right_lately_is_what_was_right_before(seed: int, text: bool, counts: list[int]) -> None:
    outcomes = made_up(seed, tuple(counts), text=text)
    found = right_lately(outcomes)
    stages = [0, NOT_ASKED] if text else [0]
    for position in range(outcomes.positions):
        start = int(outcomes.starts[np.searchsorted(outcomes.starts, position, side="right") - 1])
        expected: list[float] = []
        for window in WINDOWS:
            before = range(max(start, position - window), position)
            for stage, step in product(stages, (0, len(outcomes.sizes) - 1)):
                hits = [outcomes.gains[each, stage, step] > 1 for each in before]
                expected.append(sum(hits) / max(len(hits), 1))
        expected.append(min(position - start, WINDOWS[-1]) / WINDOWS[-1])
        np.testing.assert_allclose(found[position], expected, rtol=1e-6)
    # Nothing of a position or of what follows it, and nothing but whether one more token was proposed.
    middle = outcomes.positions // 2
    changed = outcomes.gains.copy()
    changed[middle:] = 9
    changed[:middle] += changed[:middle] > 1
    np.testing.assert_array_equal(right_lately(replace(outcomes, gains=changed))[: middle + 1], found[: middle + 1])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), text=st.booleans())
def test_a_stage_shows_no_later_level(seed: int, text: bool) -> None:
    outcomes, rows = made_up(seed, text=text), np.array([0, 5, 11])
    known = Known(outcomes)
    for stage in known.stages:
        scores, count = outcomes.scores.copy(), 0 if stage < 0 else 2 + 4 * stage
        scores[:, count:] = -1.0
        other = Known(replace(outcomes, scores=scores))
        shown = known.at(rows, stage)
        np.testing.assert_array_equal(other.at(rows, stage), shown)
        assert shown.shape == (3, known.width)
        assert known.states_at(rows, stage).any() == (stage >= 0)


# --- deciding ---


def worths(outcomes: Outcomes, predicted: Any, seconds: Any, rate: float, stage: int) -> dict[tuple[int, int], float]:
    """What is still open at a stage, smallest drafts first."""
    open_depths = [depth for depth in range(NOT_ASKED, outcomes.depth + 1) if depth >= stage]
    return {
        (depth, step): float(predicted[depth, step]) - rate * float(seconds[depth, step])
        for depth in open_depths
        for step in range(len(outcomes.sizes))
    }


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), rate=st.floats(0, 5), text=st.booleans())
def test_decisions_are_the_best_that_are_open(seed: int, rate: float, text: bool) -> None:
    outcomes, generator = made_up(seed, text=text), np.random.default_rng(seed)
    shape = (outcomes.positions, outcomes.depth + 2, outcomes.depth + 2, len(outcomes.sizes))
    predicted = generator.integers(1, 5, shape).astype(np.float32)
    seconds = generator.integers(1, 5, shape).astype(np.float32)
    depths, steps = choose(outcomes, predicted, seconds, rate)
    for position in range(outcomes.positions):
        for place, stage in enumerate(range(NOT_ASKED, outcomes.depth + 1)):
            worth = worths(outcomes, predicted[position, place], seconds[position, place], rate, stage)
            best = max(worth, key=lambda decision: worth[decision])
            if best[0] == stage:
                break
        assert (depths[position], steps[position]) == best


@pytest.mark.parametrize("text", [False, True])
def test_with_true_gains_seconds_are_those_of_the_tables_and_decisions_those_of_hindsight(text: bool) -> None:
    outcomes = made_up(5, (40, 30, 20), text=text)
    told_all = np.repeat(outcomes.gains[:, None].astype(np.float32), outcomes.depth + 2, axis=1)
    seconds = expected_seconds(outcomes, told_all)
    later = reading_more(outcomes.begin, 1, outcomes.gains[:, NOT_ASKED], outcomes.lengths[:, None])
    expected = outcomes.seconds.copy()
    expected[:, NOT_ASKED] += later.astype(np.float32)
    for place in range(outcomes.depth + 2):
        np.testing.assert_allclose(seconds[:, place], expected, rtol=1e-5)
    depths, steps = choose(outcomes, told_all, np.repeat(expected[:, None], outcomes.depth + 2, axis=1), 2.0)
    best = hindsight(replace(outcomes, seconds=expected), 2.0)
    assert np.array_equal(depths, best.depths) and np.array_equal(steps, best.steps)
    assert explained(outcomes, told_all) == 1.0


def test_costs_tell_nothing_of_the_gains() -> None:
    """In true tables: what is expected to be spent follows from what is expected to be gained alone."""
    latency = made_latency()
    outcomes = outcomes_of(made_generations(3, [30, 20]), latency, (1, 4, 9))
    seconds = expected_seconds(outcomes, np.ones((50, 5, 5, 3), np.float32))
    for depth, step in product(range(4), range(3)):
        size = min(outcomes.sizes[step], 3 + 9 * depth)
        expected = latency.cycle(depth, size, outcomes.lengths, 1)
        np.testing.assert_allclose(seconds[:, :, depth, step], np.repeat(expected[:, None], 5, axis=1), rtol=1e-5)


def test_means_explain_nothing() -> None:
    outcomes = made_up(5, (40, 30, 20))
    means = np.broadcast_to(outcomes.gains.mean(axis=0).astype(np.float32), (90, 5, 5, 3))
    assert explained(outcomes, means) == pytest.approx(0.0, abs=1e-6)


# --- predictors ---


def test_what_is_ahead() -> None:
    outcomes = made_up(0)
    assert ahead(outcomes, NOT_ASKED).all()
    assert ahead(outcomes, 2).tolist() == [False, False, True, True, False]


def test_components_hold_what_is_not_left_out() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(200, 3)) @ generator.normal(size=(3, 9))
    basis = principal(values, 9)
    assert basis.shape == (3, 9)
    np.testing.assert_allclose(values @ basis.T @ basis, values, atol=1e-9)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    kept = principal(values, 9, 0.2)
    assert ((values - values @ kept.T @ kept) ** 2).sum() <= 0.2 * (values**2).sum() and len(kept) < 3
    assert principal(values, 2).shape == (2, 9) and principal(values[:, :0], 4).shape == (0, 0)
    assert principal(np.zeros((5, 3)), 3).shape == (0, 3)


@pytest.mark.parametrize("name", SMALL)
def test_predictors_read_the_state(name: str) -> None:
    """Where nothing else tells the gain."""
    outcomes, generator = cheap(4), np.random.default_rng(0)
    easy = outcomes.scores[:, 0] > -4
    states = generator.normal(size=(outcomes.positions, 6)).astype(np.float32)
    states[:, 2] = np.where(easy, 2.0, -2.0)
    blind = replace(outcomes, scores=np.full_like(outcomes.scores, -1.0), states=states)
    found = knowable(blind, range(9), SMALL[name])
    assert found.explained > 0.8


def test_tables_of_generations_are_in_their_order() -> None:
    """A ground has a task's generations only, in its own order."""
    first, second, third = made_generations(3, [4, 6, 5])
    decide = decided_before([first, second, third], np.arange(15), 100 + np.arange(15))
    depths, sizes = decide(TaskGround([third, first], made_latency(), None, 0))
    assert depths.tolist() == [*range(10, 15), *range(4)] and sizes.tolist() == [*range(110, 115), *range(100, 104)]
