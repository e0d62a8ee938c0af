"""Partners of a policy in training, held-out questions, and the iterative schedule."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout
from ltd.policies.learned.setting import Setting

pytest.importorskip("stable_baselines3")

from toy_outcomes import DEPTH, SIZES, TINY, WIDTH, constant_depth, stage, told, toy

from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.traces.splits import held_out, split_generations, split_questions, split_three_ways
from ltd_rl.trainers.iterate import Schedule, iterate, validated
from ltd_rl.trainers.partners import RANDOM, constants, depth_table, nearest_step, random_depths, size_table
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.stage import constant_policy, layout_named, with_network


@pytest.fixture(scope="module")
def training() -> Outcomes:
    return toy(0)


@pytest.fixture(scope="module")
def validation() -> Outcomes:
    return toy(1, 5)


def test_partners_as_tables(training: Outcomes) -> None:
    assert [nearest_step((20, 40, 60, 80)), nearest_step((2, 4, 8)), nearest_step((50, 70))] == [2, 2, 0]
    assert (size_table(1, training) == 1).all() and size_table(1, training).shape == (600, 3)
    assert (depth_table(1, training) == 1).all() and depth_table(1, training).shape == (600,)
    always = constant_depth(training)
    assert (depth_table(always, training) == DEPTH).all()
    layout = layout_named("paper", "size", training)
    assert isinstance(layout, Layout)
    by_score = torch.zeros(3, layout.width)
    by_score[0, 0] = -1.0
    policy = with_network(always, "size", Network(layout, (by_score, torch.tensor([0.0, 4.0, 0.0]))), training)
    table = size_table(policy, training)
    assert (table == np.where(training.scores[:, 0] > -4, 1, 0)[:, None]).all()
    np.testing.assert_array_equal(chosen_steps(policy, training, stops(policy, training)), table[:, DEPTH])
    assert set(random_depths(training).tolist()) == {1, 2}


def test_a_constant_partner_is_the_papers_where_it_pays_at_all(training: Outcomes) -> None:
    depth, step, _ = best_static(training)
    assert constants(training) == (depth, step)
    large = replace(training, sizes=(20, 60, 100), gains=np.ones((600, 10, 3), dtype=np.int64))
    assert constants(large) == (8, 1)
    assert constant_policy(training, Setting(WIDTH)).sizes == (SIZES[step],)


@pytest.mark.parametrize(
    ("partner", "complaint"),
    [
        (lambda outcomes: size_table(3, outcomes), "step 3 is not one of the 3"),
        (lambda outcomes: size_table(constant_depth(outcomes), outcomes), "with a size network"),
        (lambda outcomes: depth_table(constant_policy(outcomes, Setting(WIDTH)), outcomes), "no depth network"),
        (lambda outcomes: depth_table(replace(constant_depth(outcomes), depth_limit=3), outcomes), "to depth 3"),
        (lambda outcomes: stage("depth", outcomes, outcomes, partner=RANDOM), "not a random one"),
        (lambda outcomes: depth_table(3, outcomes), "depth 3 is out of range"),
        (lambda outcomes: layout_named("other", "size", outcomes), "paper, summary"),
    ],
)
def test_partners_that_do_not_fit(training: Outcomes, partner: Callable[[Outcomes], Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        partner(training)


def test_a_fifth_is_held_out() -> None:
    train, kept = held_out(100)
    assert (len(train), len(kept)) == (80, 20) and sorted(train + kept) == list(range(100))
    assert held_out(100) == (train, kept) != held_out(100, seed=1)
    assert [len(side) for side in held_out(2)] == [1, 1] and [len(side) for side in held_out(3, 0.9)] == [1, 2]
    for count, share in ((1, 0.2), (10, 0.0), (10, 1.0)):
        with pytest.raises(InputError):
            held_out(count, share)


def test_turns_of_a_question_stay_together() -> None:
    from types import SimpleNamespace

    turns: Any = [
        SimpleNamespace(task="a", question_id=str(n), turn=t, sampling=Sampling()) for n in range(10) for t in range(2)
    ]
    train, kept = split_generations(turns)
    assert (len(train), len(kept)) == (16, 4)
    assert not {turn.question_id for turn in train} & {turn.question_id for turn in kept}


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(2, 30), min_size=1), st.integers(0, 3))
def test_every_task_is_on_both_sides(counts: dict[str, int], seed: int) -> None:
    questions = [(task, str(number)) for number in range(30) for task, count in counts.items() if number < count]
    chosen = split_questions(questions, seed=seed)
    assert Counter(task for task, _ in chosen) == {task: math.ceil(count / 5) for task, count in counts.items()}
    assert chosen == split_questions(iter(questions * 2), seed=seed)
    alone = {task: [name for each, name in questions if each == task] for task in counts}
    for task, names in alone.items():  # as if there were no other tasks
        assert {name for each, name in chosen if each == task} == {names[n] for n in held_out(len(names), seed=seed)[1]}


@given(st.integers(2, 60), st.integers(1, 3), st.integers(0, 3))
def test_kinds_have_their_parts_of_what_is_held_out(count: int, kinds: int, seed: int) -> None:
    kind_of = [float(number % kinds) for number in range(count)]
    train, kept = held_out(count, 0.3, seed, kinds=kind_of)
    assert sorted(train + kept) == list(range(count)) and len(kept) == min(math.ceil(0.3 * count), count - 1)
    shares = [sum(kind_of[number] == kind for number in kept) for kind in range(min(kinds, count))]
    assert max(shares) - min(shares) <= 1
    if kinds == 1:
        assert (train, kept) == held_out(count, 0.3, seed)


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 30), min_size=1))
def test_three_ways_have_something_of_every_task_or_say_which_has_too_few(counts: dict[str, int]) -> None:
    from types import SimpleNamespace

    turns: Any = [
        SimpleNamespace(task=task, question_id=str(n), turn=turn, sampling=Sampling())
        for task, count in counts.items()
        for n in range(count)
        for turn in range(2)
    ]
    short = next((task for task, count in counts.items() if count < 4), None)
    if short is not None:
        with pytest.raises(InputError, match=f"task {short} has {counts[short]} question"):
            split_three_ways(turns)
        return
    split = split_three_ways(turns)
    sides = [{(each.task, each.question_id) for each in side} for side in (split.known, split.comparison)]
    assert len(split.known) + len(split.comparison) == len(turns) and not sides[0] & sides[1]
    parts = [{(each.task, each.question_id) for each in side} for side in (split.training, split.validation)]
    assert parts[0] | parts[1] == sides[0] and not parts[0] & parts[1]
    for task in counts:
        assert [task in {name for name, _ in side} for side in (*parts, sides[1])] == [True, True, True]
        assert sum(name == task for name, _ in sides[1]) >= 2


def test_the_iterative_schedule_over_both_sources(tmp_path: Path) -> None:
    """Either policy is asked before the head is, and the bundle knows what was looked up."""
    training, validation = told(0), told(1, 5)
    config = {role: PPOConfig.paper(role, **{**TINY, "total_timesteps": 512}) for role in ("depth", "size")}
    schedule = Schedule(training, validation, Setting(WIDTH), **config, observation="summary", iterations=1)
    best = iterate(schedule, tmp_path)
    assert (best.max_text, best.text_scores) == (4, training.text_scores)
    table = size_table(best, training)
    assert table.shape == (600, DEPTH + 2)
    np.testing.assert_array_equal(chosen_steps(best, training, np.full(600, -1)), table[:, -1])
    read = load_bundle(tmp_path / "bundle").policy
    assert validated(read, validation) == validated(best, validation)
    with pytest.raises(InputError, match="does not show what the text proposes"):
        layout_named("paper", "depth", training)
    blind = with_network(constant_policy(toy(0), Setting(WIDTH)), "size", size_only(toy(0)), toy(0))
    with pytest.raises(InputError, match="before the head is asked"):
        size_table(blind, training)


def size_only(outcomes: Outcomes) -> Network:
    """A size network that sees the head alone."""
    layout = layout_named("summary", "size", outcomes)
    return Network(layout, (torch.zeros(len(SIZES), layout.width), torch.zeros(len(SIZES))))


def test_the_iterative_schedule(training: Outcomes, validation: Outcomes, tmp_path: Path) -> None:
    small = {**TINY, "total_timesteps": 512}
    schedule = Schedule(
        training,
        validation,
        Setting(WIDTH),
        depth=PPOConfig.paper("depth", **small),
        size=PPOConfig.paper("size", **small),
    )
    best = iterate(schedule, tmp_path)
    stages = {"iter0-depth", "iter0-size", "iter1-size", "iter2-depth", "iter3-size"}
    assert {path.name for path in tmp_path.iterdir()} == {*stages, "iterations.json", "bundle", ".lock"}
    history = json.loads((tmp_path / "iterations.json").read_text())
    assert [entry["iteration"] for entry in history] == [0, 1, 2, 3]
    bundle = load_bundle(tmp_path / "bundle")
    top = max(entry["throughput"] for entry in history)
    for policy in (best, bundle.policy):
        assert validated(policy, validation)["throughput"] == top == bundle.validation["throughput"]
    assert (best.sizes, best.depth_limit) == (SIZES, DEPTH)
    for network in (bundle.policy.depth_network, bundle.policy.size_network):
        assert network is not None and network.layout.length_range == training.length_range == (50, 50)
    (tmp_path / "iterations.json").unlink()
    iterate(schedule, tmp_path)
    assert json.loads((tmp_path / "iterations.json").read_text()) == history
