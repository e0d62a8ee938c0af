"""The replay environments against a slow reference, and free of the official code's faults."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outcomes import KNOWN, ROLES, STATE, WIDTH, layouts_of, made_up, partner_of
from stable_baselines3.common.env_checker import check_env as check_for_sb3

import ltd_rl.environments  # noqa: F401 (registers)
from ltd.errors import InputError
from ltd.lookup import TEXT_FEATURES
from ltd.policies.learned.observation import Layout, Summary, depth_layout
from ltd.tree import candidate_count
from ltd_rl.environments.replay_env import ReplayEnv, ReplayVecEnv
from ltd_rl.environments.rewards import REWARDS, Reward
from ltd_rl.environments.walk import CYCLE
from ltd_rl.traces.outcomes import Outcomes


def vectorised(outcomes: Outcomes, role: Any, count: int = 3, seed: int = 0, **changes: Any) -> ReplayVecEnv:
    arguments = {
        "layout": Summary(4, 2, outcomes.states.shape[1]),
        "reward": Reward.named("renewal", 0.5),
        "partner": partner_of(outcomes, role),
    }
    return ReplayVecEnv(outcomes, role, **{**arguments, **changes}, count=count, seed=seed)


def some_actions(env: Any, steps: int, seed: int = 0) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        yield generator.integers(0, env.action_space.n, env.num_envs)


# --- replay, against the obvious ---


@dataclass
class Slow:
    """The environments one by one, with plain numbers."""

    outcomes: Outcomes
    role: str
    layout: Layout | Summary
    partner: Any
    seed: int
    queue: list[int] = field(default_factory=list)

    def begin(self) -> dict[str, Any]:
        if not self.queue:
            self.generator = getattr(self, "generator", np.random.default_rng(self.seed))
            self.queue = self.generator.permutation(len(self.outcomes.starts) - 1).tolist()
        number = self.queue.pop(0)
        place = {"at": self.outcomes.starts[number], "end": self.outcomes.starts[number + 1]}
        return self.begin_cycle(place)

    def begin_cycle(self, place: dict[str, Any]) -> dict[str, Any]:
        return {**place, "depth": self.outcomes.least_depth if self.role == "depth" else self.partner[place["at"]]}

    def observe(self, place: dict[str, Any]) -> torch.Tensor:
        at, depth, outcomes = place["at"], int(place["depth"]), self.outcomes
        until = candidate_count(WIDTH, depth) if depth >= 0 else 0
        newest = candidate_count(WIDTH, depth - 1) if depth > 0 else 0
        scores = torch.from_numpy(outcomes.scores[at : at + 1])
        if isinstance(self.layout, Layout):
            shown = scores[:, newest if self.role == "depth" else 0 : until]
            return self.layout.build(shown, outcomes.lengths[at], depth)[0]
        states = torch.from_numpy(outcomes.states[at : at + 1, : self.layout.states])
        text = torch.from_numpy(outcomes.text[at : at + 1])
        return self.layout.build(scores[:, :until], newest, outcomes.lengths[at], depth, states, text)[0]

    def step(self, place: dict[str, Any], action: int) -> tuple[dict[str, Any], tuple[int, float] | None]:
        """Where the environment is then, and what the cycle gained and cost, if it ended."""
        at, depth = place["at"], place["depth"]
        if self.role == "depth":
            depth += action
            if action == 1 and depth < self.outcomes.depth:
                return {**place, "depth": depth}, None
            action = self.partner[at, depth]
        gained, seconds = int(self.outcomes.gains[at, depth, action]), float(self.outcomes.seconds[at, depth, action])
        if depth < 0:
            unread, length = np.array([1, 1 + gained]), self.outcomes.lengths[at]
            seconds += float(np.diff(self.outcomes.begin(unread, length))[0])
        place = {**place, "at": at + gained}
        return (place if place["at"] == place["end"] else self.begin_cycle(place)), (gained, seconds)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    depth=st.integers(1, 3),
    role=st.sampled_from(ROLES),
    layout=st.integers(0, 6),
    environments=st.integers(1, 4),
    reward=st.sampled_from(list(REWARDS)),
)
def test_many_at_once_are_each_the_obvious(
    seed: int, counts: list[int], depth: int, role: str, layout: int, environments: int, reward: str
) -> None:
    outcomes = made_up(seed, tuple(counts), depth, text=layout == 6)
    layouts = [*layouts_of(role, WIDTH, depth, STATE), Summary(3, 2, STATE, KNOWN, TEXT_FEATURES)]
    chosen, partner = layouts[layout], partner_of(outcomes, role, seed)
    env = vectorised(
        outcomes, role, environments, seed, layout=chosen, partner=partner, reward=Reward.named(reward, 0.5)
    )
    slow, worth = Slow(outcomes, role, chosen, partner, seed), Reward.named(reward, 0.5)
    observations, places = env.reset(), [slow.begin() for _ in range(environments)]
    for actions in some_actions(env, 25, seed):
        for place, seen in zip(places, observations, strict=True):
            np.testing.assert_allclose(seen, slow.observe(place).numpy(), rtol=1e-5, atol=1e-6)
            assert env.observation_space.contains(seen)
        observations, rewards, dones, infos = env.step(actions)
        moves = [slow.step(place, int(action)) for place, action in zip(places, actions, strict=True)]
        for place, info, action, (_, end) in zip(places, infos, actions.tolist(), moves, strict=True):
            assert info.get("cycle", {}).keys() == ({*CYCLE} if end else set())
            if end:
                depth = min(place["depth"] + (action if role == "depth" else 0), outcomes.depth)
                step = partner[place["at"], depth] if role == "depth" else action
                known = (*end, depth, outcomes.sizes[step], outcomes.lengths[place["at"]])
                assert tuple(info["cycle"][name] for name in CYCLE[1:]) == pytest.approx(known)
        places, ends = [place for place, _ in moves], [end for _, end in moves]
        found = np.array([end for end in ends if end is not None]).reshape(-1, 2)
        expected = np.zeros(environments)
        expected[[end is not None for end in ends]] = worth(found[:, 0].astype(int), found[:, 1].astype(np.float32))
        np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-6)
        given = [info["cycle"]["reward"] if "cycle" in info else 0.0 for info in infos]
        np.testing.assert_array_equal(rewards, given)
        assert dones.tolist() == [place["at"] == place["end"] for place in places]
        assert [("terminal_observation" in info) for info in infos] == dones.tolist()
        places = [slow.begin() if done else place for place, done in zip(places, dones, strict=True)]


@pytest.mark.parametrize("role", ROLES)
def test_an_episode_is_a_generation(role: str) -> None:
    outcomes = made_up(5)
    env, rewards, steps, lengths = vectorised(outcomes, role), np.zeros(3), np.zeros(3, dtype=int), []
    env.reset()
    for actions in some_actions(env, 200):
        _, given, dones, infos = env.step(actions)
        rewards, steps = rewards + given, steps + 1
        for place in np.flatnonzero(dones):
            answer = infos[place]["episode"]
            assert answer["r"] == pytest.approx(rewards[place]) and answer["l"] == steps[place]
            assert 0 < answer["cycles"] <= answer["l"] and answer["seconds"] > 0
            assert not infos[place]["terminal_observation"].any()
            lengths.append(answer["tokens"])
            rewards[place] = steps[place] = 0
    assert set(lengths) == {4, 1, 7}  # a generation of p positions gains p tokens
    assert min(lengths.count(length) for length in (4, 1, 7)) >= len(lengths) // 3 - 3  # all, before any again


def test_the_first_action_of_a_cycle_counts_and_its_observation_is_its_own() -> None:
    """The official environment overrides the first action, and shows the scores of the cycle before."""
    outcomes = made_up(1, (9,))
    env = vectorised(outcomes, "depth", 1, layout=depth_layout(WIDTH), reward=Reward.named("length", 1.0))
    position, seen = 0, env.reset()
    while position < 9:
        np.testing.assert_array_equal(seen[0, :WIDTH], outcomes.scores[position, :WIDTH].clip(-100))
        assert not seen[0, WIDTH : WIDTH**2].any()
        gained = outcomes.gains[position, 0, env.walk.partner[position, 0]]
        seen, rewards, dones, _ = env.step(np.array([0]))
        assert rewards[0] == gained
        position += gained
        assert dones[0] == (position == 9)


def test_random_depths_are_uniform_from_1() -> None:
    outcomes = made_up(2)
    env = vectorised(outcomes, "size", 50, partner="random", layout=Summary(1, 1))
    depths, seen = [], env.reset()
    for actions in some_actions(env, 60):
        depths.extend(seen[:, 7:].argmax(1))  # 2 scores, 2 probabilities, 2 sums, the length, and then the depth
        seen, *_ = env.step(actions)
    counts = np.bincount(depths, minlength=4)
    assert counts[0] == 0 and len(counts) == 4
    np.testing.assert_allclose(counts[1:] / len(depths), 1 / 3, atol=0.04)


# --- seeds and states ---


def run(env: ReplayVecEnv, steps: int, seed: int) -> list[Any]:
    """Everything that comes out."""
    found: list[Any] = []
    for actions in some_actions(env, steps, seed):
        found.extend(env.step(actions))
    return found


def assert_equal(one: list[Any], other: list[Any]) -> None:
    for before, after in zip(one, other, strict=True):
        np.testing.assert_equal(before, after)


@pytest.mark.parametrize("role", ROLES)
def test_seeds_decide_everything_and_no_global_generator_is_used(role: str) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    outcomes, partner = made_up(3), {} if role == "depth" else {"partner": "random"}
    first, same, other = (vectorised(outcomes, role, 3, seed, **partner) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.reset(), same.reset())
    other.reset()
    results = [run(env, 60, 1) for env in (first, same, other)]
    assert_equal(results[0], results[1])
    assert any(not np.array_equal(one, two) for one, two in zip(results[0][::4], results[2][::4], strict=True))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("after", [0, 1, 17])
def test_a_restored_environment_goes_on_exactly(role: str, after: int) -> None:
    outcomes, partner = made_up(3), {} if role == "depth" else {"partner": "random"}
    env, again = (vectorised(outcomes, role, 3, seed, **partner) for seed in (7, 99))
    env.reset()
    again.reset()
    run(env, after, 1)
    state = env.state_dict()
    expected = [env.observe(), *run(env, 40, 2)]
    run(again, 5, 3)
    again.load_state_dict(state)
    assert_equal(expected, [again.observe(), *run(again, 40, 2)])


def test_the_state_of_another_environment_is_refused() -> None:
    outcomes = made_up(3)
    state = vectorised(outcomes, "depth").state_dict()
    with pytest.raises(InputError, match="of 3 environments; there are 4"):
        vectorised(outcomes, "depth", 4).load_state_dict(state)
    with pytest.raises(InputError, match="another reward's"):
        vectorised(outcomes, "depth", reward=Reward.named("ratio", 1.0)).load_state_dict(state)


# --- bad input ---


@pytest.mark.parametrize(
    ("role", "changes", "complaint"),
    [
        ("depth", {"count": 0}, "cannot be 0 environments"),
        ("depth", {"partner": "random"}, "cannot have the partner 'random'"),
        ("size", {"partner": "best"}, "cannot have the partner 'best'"),
        ("size", {"partner": np.zeros((12, 4), dtype=int)}, r"it must be int64 \(12,\)"),
        ("depth", {"partner": np.zeros(12, dtype=int)}, r"it must be int64 \(12, 4\)"),
        ("size", {"partner": np.zeros(12)}, "table of float64"),
        ("size", {"partner": np.full(12, 4)}, "within 0 … 3"),
        ("depth", {"partner": np.full((12, 4), -1)}, "within 0 … 2"),
        ("depth", {"layout": Layout(3, 1)}, "3 slots for scores, but the depth policy sees up to 4"),
        ("size", {"layout": Layout(13, 1)}, "13 slots for scores, but the size policy sees up to 14"),
        ("size", {"layout": Summary(1, 1, 4)}, "4 states"),
        ("size", {"layout": Summary(1, 1, text=TEXT_FEATURES)}, "nothing is looked up"),
        ("size", {"partner": np.full(12, -1)}, "within 0 … 3"),
    ],
)
def test_bad_arguments(role: str, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        vectorised(made_up(0), role, **changes)


def test_outcomes_without_cycles_or_depths() -> None:
    with pytest.raises(InputError, match="no cycle"):
        vectorised(made_up(0, ()), "size")
    for role, partner in (("depth", partner_of(made_up(0, depth=0), "depth")), ("size", "random")):
        with pytest.raises(InputError, match="no depth to choose"):
            vectorised(made_up(0, depth=0), role, partner=partner)


# --- Gymnasium and Stable-Baselines3 ---


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", range(3))
def test_the_replay_environments_pass_the_checkers(role: str, layout: int) -> None:
    outcomes = made_up(4)
    env = gymnasium.make(
        f"ltd/{role.capitalize()}Replay-v0",
        outcomes=outcomes,
        layout=layouts_of(role, WIDTH, 3, STATE)[layout],
        reward=Reward.named("renewal", 0.5),
        partner=partner_of(outcomes, role),
    ).unwrapped
    assert isinstance(env, ReplayEnv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        check_for_sb3(env)
