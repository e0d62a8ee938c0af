"""The controller: it believes what is true, decides live as on traces, and wins where something can be won."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import made_generations, made_latency

from ltd.decoding.speculation import Speculation
from ltd.errors import InputError
from ltd.evaluation.methods import TreeMethod
from ltd.latency.interpolation import pool
from ltd.policies.controller import ExpectedGain
from ltd.policies.controller_file import load_controller, save_controller
from ltd.policies.controller_parts import BINS, BINS_PER_NAT, bins_of, level_of_candidates, ranked
from ltd.tree import DraftTree, candidate_count
from ltd_rl.baselines.controller_fit import believe, calibrate, choose, decide_everywhere, fit, fit_ahead, ridge
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.optimum import best_static, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, plain_total, split, total
from ltd_rl.traces.replay import replay

SIZES = (1, 2, 4, 8, 16)
Fitted = tuple[ExpectedGain, list[RecordedGeneration], Outcomes]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    generations = made_generations(11, [70] * 30)
    outcomes = outcomes_of(generations, made_latency(), SIZES)
    return fit(generations, outcomes, made_latency())[0], generations, outcomes


def test_it_beats_every_fixed_decision_on_answers_it_has_not_seen(fitted: Fitted) -> None:
    controller = fitted[0]
    outcomes = outcomes_of(made_generations(500, [70] * 20), made_latency(), SIZES)
    found = total(outcomes, *decide_everywhere(controller, outcomes)).throughput
    assert best_static(outcomes)[2].throughput < found < optimum(outcomes).total.throughput


@pytest.mark.parametrize("rate", [None, 150.0, 400.0])
def test_live_it_decides_as_at_all_positions_at_once(fitted: Fitted, rate: float | None) -> None:
    controller, generations, outcomes = fitted
    controller = fit_ahead(replace(controller, rate=rate), believe(controller, outcomes), outcomes)
    depths, steps = decide_everywhere(controller, outcomes)
    assert len(set(depths.tolist())) > 1
    sizes = np.array(SIZES)[steps]
    for number, generation in enumerate(generations):
        block = slice(outcomes.starts[number], outcomes.starts[number + 1])
        live, at_once = replay(generation, controller), replay(generation, (depths[block], sizes[block]))
        for name in ("positions", "depths", "sizes", "gains"):
            np.testing.assert_array_equal(getattr(live, name), getattr(at_once, name))


def test_a_batch_decides_on_the_mean(fitted: Fitted) -> None:
    controller, generations, _ = fitted
    rows = [3, 40]
    tree = DraftTree(2, 3, 3, 0, torch.device("cpu"))
    tree.begin(torch.ones(2, dtype=torch.int64), torch.tensor([30, 60], dtype=torch.int32))
    tree.scores[:] = torch.from_numpy(np.array(generations[0].scores[rows]))
    tree.levels = 2
    alone = []
    for row in range(2):
        chances = controller.chances[level_of_candidates(3, 1), bins_of(tree.scores[row, None, :12].numpy())]
        order = sorted(range(12), key=lambda index, row=row: (-float(tree.scores[row, index]), index))  # type: ignore[misc]
        gain = np.array([1 + sum(chances[0, index] for index in order[:size]) for size in SIZES])
        length = np.array([30, 60])[row]
        cost = [np.interp(length, controller.lengths, knots) for knots in controller.costs[1]]
        alone.append(controller.worth(np.minimum(gain, 3), np.array(cost)))
    assert controller.choose_size(tree, 1) == SIZES[int(np.mean(alone, axis=0).argmax())]


def test_another_thread_may_ask_the_same_controller(fitted: Fitted) -> None:
    """Between what one thread keeps and what it decides, another one has kept its own."""
    controller, generations, _ = fitted
    trees = []
    for row in (3, 40):
        trees.append(DraftTree(1, 3, 3, 0, torch.device("cpu")))
        trees[-1].begin(torch.ones(1, dtype=torch.int64), torch.tensor([30 * row], dtype=torch.int32))
        trees[-1].scores[:] = torch.from_numpy(np.array(generations[0].scores[[row]]))
        trees[-1].levels = 2
    fresh, other = replace(controller), replace(controller)._look(trees[1], 1)

    class KeptByAnother(list):  # type: ignore[type-arg]
        def __setitem__(self, place: object, values: object) -> None:
            self.append(((1, (b"",)), other))

    object.__setattr__(fresh, "looked", KeptByAnother())
    own = replace(controller)._look(trees[0], 1)
    assert not np.array_equal(own[0], other[0])
    np.testing.assert_array_equal(fresh._look(trees[0], 1)[0], own[0])


@settings(max_examples=50)
@given(
    values=st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=1, max_size=8),
)
def test_weights_count_as_repetitions(values: list[tuple[int, int]]) -> None:
    means, weights = (np.array(column, dtype=np.float64) for column in zip(*values, strict=True))
    counts = weights.astype(int)
    repeated = pool(np.repeat(means, counts), np.ones(counts.sum()))
    np.testing.assert_allclose(np.repeat(pool(means, weights), counts), repeated, atol=1e-12)


def test_chances_are_the_frequencies_they_were_drawn_with() -> None:
    generator = np.random.default_rng(5)
    positions, width = 60_000, 2
    scores = -generator.uniform(0, 3, (positions, candidate_count(width, 0))).astype(np.float32)
    likely = np.exp(1.5 * scores[:, 0])  # the draft is too sure of itself
    path = np.where(generator.random(positions) < likely, 0, -1).astype(np.int16)[:, None]
    scores[:, 1] = -15.0
    chances = calibrate(scores, path, width)
    middles = (np.arange(3 * BINS_PER_NAT) + 0.5) / BINS_PER_NAT
    np.testing.assert_allclose(chances[0, : len(middles)], np.exp(-1.5 * middles), atol=0.06)
    assert np.all(np.diff(chances, axis=1) <= 0)


def test_beliefs_are_right_on_average(fitted: Fitted) -> None:
    controller, _, outcomes = fitted
    beliefs = believe(controller, outcomes)
    for depth in range(3):
        expected, real = beliefs.expected[:, depth].mean(axis=0), outcomes.gains[:, depth].mean(axis=0)
        np.testing.assert_allclose(expected, real, rtol=0.12)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), most=st.integers(1, 30))
def test_ranking_level_by_level_is_ranking_at_once(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    scores = -generator.integers(0, 6, (3, 21)).astype(np.float32)
    numbers = np.arange(63.0).reshape(3, 21)
    at_once = ranked(scores, numbers, most)
    first = ranked(scores[:, :12], numbers[:, :12], most)
    merged = [np.concatenate([old, new[:, 12:]], axis=1) for old, new in zip(first, (scores, numbers), strict=True)]
    for one, other in zip(at_once, ranked(merged[0], merged[1], most), strict=True):
        np.testing.assert_array_equal(one, other)
    for row in range(3):
        order = sorted(range(21), key=lambda index: (-scores[row, index], index))[:most]
        assert at_once[1][row].tolist() == numbers[row, order].tolist()


def test_bins_take_any_score() -> None:
    scores = np.array([0.0, -0.0, 1e-3, -0.031, -0.032, -1.0, -15.99, -16.0, -1e30, -np.inf, np.nan], dtype=np.float32)
    assert bins_of(scores).tolist() == [0, 0, 0, 0, 1, 32, 511, 511, 511, 511, 511]
    assert BINS == 512


def test_ridge_finds_a_linear_function() -> None:
    inputs = np.random.default_rng(1).normal(size=(5000, 3))
    inputs[:, 0] = 1.0
    np.testing.assert_allclose(ridge(inputs, inputs @ [4.0, -2.0, 0.5]), [4.0, -2.0, 0.5], atol=0.01)
    constant = np.ones((10, 3))
    np.testing.assert_allclose(constant @ ridge(constant, np.full(10, 7.0)), 7.0)


def test_where_drafting_never_pays_it_does_not() -> None:
    generations = made_generations(1, [30, 30])
    latency = made_latency(verify_slope=1000.0)
    outcomes = outcomes_of(generations, latency, SIZES)
    controller, found = fit(generations, outcomes, latency)
    assert not controller.speculate(torch.tensor([5]))
    assert found == plain_total(outcomes)
    assert replay(generations[0], controller).gains.tolist() == [1] * 30
    assert Speculation(None, controller).draft is None  # nothing to decide is as good with a draft as without
    with pytest.raises(InputError, match="decides about a draft, and there is none"):
        Speculation(None, replace(controller, drafts=True))


def test_a_file_keeps_everything(fitted: Fitted, tmp_path: Path) -> None:
    controller, _, outcomes = fitted
    file = tmp_path / "there" / "controller.json"
    save_controller(controller, file, {"why": "test"})
    again = load_controller(file)
    part = split(outcomes, [0, 4])
    for one, other in zip(choose(again, believe(again, part)), decide_everywhere(controller, part), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (again.rate, again.sizes, again.drafts) == (controller.rate, controller.sizes, controller.drafts)
    assert str(TreeMethod.named(f"controller:{file}").policy) == str(controller)
    with pytest.raises(InputError, match="cannot write"):
        save_controller(controller, file / "below")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 9}, "schema 1"),
        ({"sizes": [4, 2]}, "must ascend within 1"),
        ({"sizes": [0, 2]}, "must ascend within 1"),
        ({"chances": [[0.5]]}, "cannot be used"),
        ({"rate": -1}, "must be positive"),
        ({"lengths": [9, 9]}, "lengths must ascend"),
        ({"costs": [[[1.0]]]}, "costs must be finite numbers of shape"),
        ({"width": None}, "cannot be used"),
        ({"max_size": 8}, "controller.json holds what this version of ltd does not know: max_size$"),
    ],
)
def test_damaged_files_are_refused(fitted: Fitted, tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    file = tmp_path / "controller.json"
    save_controller(fitted[0], file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=complaint):
        load_controller(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "half").write_text('{"format": "ltd-controller", "schema": 1}')
    (tmp_path / "no").write_text("{")
    for name in ("missing", "half", "no"):
        with pytest.raises(InputError, match=f"{name} cannot be used"):
            load_controller(tmp_path / name)


def test_another_width_is_refused(fitted: Fitted) -> None:
    tree = DraftTree(1, 5, 3, 0, torch.device("cpu"))
    tree.begin(torch.tensor([1]), torch.tensor([4], dtype=torch.int32))
    tree.levels = 1
    with pytest.raises(InputError, match="beam width 3, but the draft's is 5"):
        fitted[0].continue_drafting(tree, 0)
    with pytest.raises(InputError, match="beam width 7"):
        decide_everywhere(replace(fitted[0], width=7), fitted[2])
