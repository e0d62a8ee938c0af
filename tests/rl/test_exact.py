"""The exact trainer against sums over all decisions, one by one, and where the best decision is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_texts import made_text
from made_traces import made_generations, made_latency
from toy_outcomes import DEPTH, SIZES, WIDTH, told, toy

from ltd.errors import InputError
from ltd.lookup import TEXT_FEATURES
from ltd.lookup.scores import default_text_scores
from ltd.policies.learned.observation import Layout, Summary, depth_layout, size_layout
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.observations import Observer, decided, outputs, stops
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, total
from ltd_rl.trainers.exact import ExactConfig, ExactTrainer, train_exact

SUMMARY = Summary(4, 2)
BOTH = Summary(4, 2, text=TEXT_FEATURES)
SMALL = ExactConfig(hidden=(8,), epochs=3, batch=16)


def paper_layouts(outcomes: Outcomes) -> tuple[Layout, Layout]:
    return depth_layout(outcomes.width), size_layout(outcomes.width, outcomes.depth)


@pytest.fixture
def outcomes() -> Outcomes:
    return outcomes_of(made_generations(7, [30, 21]), made_latency(), (0, 1, 3, 8))


@pytest.fixture
def both() -> Outcomes:
    """With what the text proposes."""
    generations = [made_text(seed, count)[0] for seed, count in ((7, 30), (8, 21))]
    return outcomes_of(generations, made_latency(), (0, 1, 3, 8), text=default_text_scores(), most=12)


def chances_by_hand(trainer: ExactTrainer, row: int) -> np.ndarray[Any, Any]:
    """P(d, V) from the networks as they would run at inference, in float64."""
    policy, outcomes = trainer.policy(Setting(trainer.outcomes.width)), trainer.outcomes
    assert policy.depth_network is not None and policy.size_network is not None
    first = -1 if trainer.layouts[0] == replace(BOTH, length_range=outcomes.length_range) else 0
    table, reached = np.zeros((outcomes.depth + 1 - first, len(outcomes.sizes))), 1.0
    for depth in range(first, outcomes.depth + 1):
        rows = np.array([row])
        seen = [Observer(outcomes, layout, role).at(rows, depth)
                for layout, role in zip(trainer.layouts, ("depth", "size"), strict=True)]  # fmt: skip
        going, size = (
            torch.softmax(outputs(network, observation).double()[0], 0).numpy()
            for network, observation in zip((policy.depth_network, policy.size_network), seen, strict=True)
        )
        stop = 1.0 if depth == outcomes.depth else going[0]
        table[depth] = reached * stop * size
        reached *= going[1]
    return table


@pytest.mark.parametrize("kind", ["summary", "paper", "both"])
def test_chances_are_products_along_the_levels(outcomes: Outcomes, both: Outcomes, kind: str) -> None:
    layouts = {"summary": (SUMMARY, SUMMARY), "paper": paper_layouts(outcomes), "both": (BOTH, BOTH)}[kind]
    trainer = ExactTrainer(both if kind == "both" else outcomes, layouts, SMALL)
    trainer.epoch()
    rows = np.array([0, 17, 50])
    found = trainer.log_chances(rows).exp().detach().numpy()
    np.testing.assert_allclose(found.sum((1, 2)), 1.0, rtol=1e-5)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(found[place], chances_by_hand(trainer, int(row)), atol=2e-5)


def test_an_update_follows_the_gradient_of_the_sum_over_all_decisions(outcomes: Outcomes) -> None:
    """The score-function form of the same gradient, Σ P · r · ∇ log P, is what a sampling trainer estimates."""
    trainer = ExactTrainer(outcomes, (SUMMARY, SUMMARY), SMALL)
    rows = np.arange(outcomes.positions)
    parameters = [p for network in trainer.networks for p in network.layers.parameters()]
    log_chances, rewards = trainer.log_chances(rows), trainer.rewards(rows)
    exact = torch.autograd.grad((log_chances.exp() * rewards).sum(), parameters, retain_graph=True)
    sampled = torch.autograd.grad((log_chances.exp().detach() * rewards * log_chances).sum(), parameters)
    for one, other in zip(exact, sampled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reward", ["renewal", "ratio"])
def test_rewards_are_those_of_the_table(outcomes: Outcomes, reward: str) -> None:
    trainer = ExactTrainer(outcomes, (SUMMARY, SUMMARY), replace(SMALL, reward=reward))
    rate = best_static(outcomes)[2].throughput
    assert trainer.rate == rate
    found = trainer.rewards(np.array([5]))[0].numpy()
    gains, seconds = outcomes.gains[5, :-1], outcomes.seconds[5, :-1].astype(np.float64)  # it always asks the head
    np.testing.assert_allclose(found, gains - rate * seconds if reward == "renewal" else gains / seconds / rate, 1e-4)


@pytest.mark.parametrize("reward", ["renewal", "ratio"])
def test_without_the_head_reading_counts_as_if_it_were_asked_next(both: Outcomes, reward: str) -> None:
    trainer = ExactTrainer(both, (BOTH, BOTH), replace(SMALL, reward=reward))
    rows = np.flatnonzero(both.gains[:, -1].max(axis=1) > 1)
    assert len(rows) > 3
    found = trainer.rewards(rows).numpy()
    gains, seconds = both.gains[rows], both.seconds[rows].astype(np.float64)
    lengths = both.lengths[rows, None]
    seconds[:, -1] += both.begin(1 + gains[:, -1], lengths) - both.begin(1, lengths)
    rate = trainer.rate
    np.testing.assert_allclose(found, gains - rate * seconds if reward == "renewal" else gains / seconds / rate, 1e-4)
    blind = ExactTrainer(both, (SUMMARY, SUMMARY), replace(SMALL, reward=reward))
    assert blind.log_chances(rows).shape == blind.rewards(rows).shape == (len(rows), both.depth + 1, 4)


@pytest.mark.parametrize("reward", ["renewal", "ratio"])
def test_it_asks_the_head_where_the_text_does_not_know_better(reward: str) -> None:
    training, validation = told(1), told(2)
    # With less entropy, renewal can get stuck in never asking the head.
    config = ExactConfig(reward=reward, hidden=(16,), epochs=20, batch=32, learning_rate=5e-3, entropy=0.2)
    policy = train_exact(training, validation, (BOTH, BOTH), config, Setting(WIDTH)).policy
    assert (policy.max_text, policy.text_scores) == (4, training.text_scores)
    known, easy = validation.text[:, 0] > 0.5, validation.scores[:, 0] > -4
    # Whether it is easy, the head's scores tell, so it has to be asked.
    depths, steps = np.select([known, easy], [-1, DEPTH], 0), np.select([known, easy], [1, len(SIZES) - 1], 0)
    best = total(validation, depths, steps).throughput
    assert best > 1.1 * best_static(validation)[2].throughput
    found = stops(policy, validation)
    assert decided(policy, validation).throughput > 0.98 * best
    assert (found[known] == -1).mean() > 0.95 and (found[easy & ~known] == DEPTH).mean() > 0.95


@pytest.mark.parametrize(
    ("layouts", "complaint"),
    [((BOTH, SUMMARY), "one of the two"), ((SUMMARY, BOTH), "one of the two"), ((BOTH, BOTH), "nothing was looked up")],
)
def test_layouts_must_go_with_each_other_and_the_tables(
    outcomes: Outcomes, layouts: tuple[Summary, Summary], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        train_exact(outcomes, outcomes, layouts, SMALL, Setting(3))


def test_validation_must_have_as_much_text(outcomes: Outcomes, both: Outcomes) -> None:
    with pytest.raises(InputError, match="same number of text candidates"):
        train_exact(both, replace(both, max_text=5), (BOTH, BOTH), SMALL, Setting(3))


@pytest.mark.parametrize("reward", ["renewal", "ratio"])
@pytest.mark.parametrize("kind", ["summary", "paper"])
def test_it_finds_the_best_decisions_where_the_scores_tell_them(kind: str, reward: str) -> None:
    training, validation = toy(1), toy(2)
    layouts = (SUMMARY, SUMMARY) if kind == "summary" else paper_layouts(training)
    config = ExactConfig(reward=reward, hidden=(16,), epochs=20, batch=32, learning_rate=5e-3)
    result = train_exact(training, validation, layouts, config, Setting(WIDTH))
    easy = validation.scores[:, 0] > -4
    best = total(validation, np.where(easy, DEPTH, 0), np.where(easy, len(SIZES) - 1, 0)).throughput
    assert best > 1.1 * best_static(validation)[2].throughput
    assert decided(result.policy, validation).throughput > 0.98 * best


def test_the_policy_is_that_of_the_best_validation(outcomes: Outcomes) -> None:
    validation = outcomes_of(made_generations(70, [40]), made_latency(), outcomes.sizes)
    told = []
    result = train_exact(outcomes, validation, (SUMMARY, SUMMARY), SMALL, Setting(3), told.append)
    assert told == result.epochs and len(told) == SMALL.epochs
    assert decided(result.policy, validation).throughput == max(epoch.validation for epoch in told)


def test_the_policies_know_the_lengths_that_they_were_trained_on(outcomes: Outcomes) -> None:
    longer = replace(outcomes, lengths=outcomes.lengths + 300)
    policy = train_exact(outcomes, longer, (SUMMARY, paper_layouts(outcomes)[1]), SMALL, Setting(3)).policy
    for network in (policy.depth_network, policy.size_network):
        assert network is not None
        assert network.layout.length_range == (outcomes.lengths.min(), outcomes.lengths.max())
    assert 0 < outcomes.length_range[0] < outcomes.length_range[1]


def test_a_seed_gives_the_same_policy_and_touches_no_global_generator(outcomes: Outcomes) -> None:
    state = torch.random.get_rng_state()
    one, two, other = (
        train_exact(outcomes, outcomes, (SUMMARY, SUMMARY), replace(SMALL, seed=seed), Setting(3)).epochs
        for seed in (0, 0, 1)
    )
    assert one == two
    assert one != other
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reward": "length"}, "knows the rewards ratio and renewal, not length"),
        ({"hidden": (0,)}, "at least 1"),
        ({"epochs": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be a number above 0"),
        ({"entropy": -1.0}, "entropy is -1.0; it must be 0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        ExactConfig(**changes)


def test_validation_must_have_the_same_choices(outcomes: Outcomes) -> None:
    other = outcomes_of(made_generations(1, [10]), made_latency(), (1, 2))
    with pytest.raises(InputError, match="the same ladder"):
        train_exact(outcomes, other, (SUMMARY, SUMMARY), SMALL, Setting(3))
