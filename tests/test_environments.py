"""The environments: replay against a slow reference, live against replay, free of the official code's faults."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_for_sb3

import ltd_rl.environments  # noqa: F401 (registers)
from ltd.errors import InputError
from ltd.policies import Static
from ltd.policies.observation import Layout, Summary, depth_layout, size_layout
from ltd.tree import DraftTree, candidate_count
from ltd_rl.live_env import LiveEnv
from ltd_rl.outcomes import Outcomes, outcomes_of
from ltd_rl.replay_env import ReplayEnv, ReplayVecEnv
from ltd_rl.rewards import PRIOR, REWARDS, Reward
from recordings import DEPTH, NEW_TOKENS, Recorded

WIDTH, STATE = 2, 3
LADDER = (2, 5, 9)
ROLES = ("depth", "size")


def made_up(seed: int, counts: tuple[int, ...] = (4, 1, 7), depth: int = 3) -> Outcomes:
    """Outcomes of generations with so many positions, all of them random."""
    generator, positions = np.random.default_rng(seed), sum(counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rest = np.repeat(starts[1:], counts) - np.arange(positions)
    shape = (positions, depth + 1, len(LADDER))
    return Outcomes(
        width=WIDTH,
        sizes=LADDER,
        starts=starts,
        lengths=generator.integers(1, 900, positions),
        gains=np.minimum(generator.integers(1, 5, shape), rest[:, None, None]),
        seconds=(0.01 + generator.random(shape)).astype(np.float32),
        plain_seconds=np.full(positions, 0.5, dtype=np.float32),
        scores=(-120 * generator.random((positions, candidate_count(WIDTH, depth)))).astype(np.float32),
        states=generator.normal(size=(positions, STATE)).astype(np.float32),
    )


def partner_of(outcomes: Outcomes, role: str, seed: int = 0) -> Any:
    """A random table."""
    generator = np.random.default_rng(seed)
    if role == "depth":
        return generator.integers(0, len(outcomes.sizes), (outcomes.positions, outcomes.depth + 1))
    return generator.integers(0, outcomes.depth + 1, outcomes.positions)


def layouts_of(role: str, width: int, depth: int, states: int) -> list[Layout | Summary]:
    """The paper's, and summaries with and without all extras."""
    paper = depth_layout(width) if role == "depth" else size_layout(width, depth)
    return [paper, Summary(4, 2), Summary(3, 5, 2, states), Summary(3, 5, 2), Summary(2, 2, 0, states)]


def vectorised(outcomes: Outcomes, role: Any, count: int = 3, seed: int = 0, **changes: Any) -> ReplayVecEnv:
    arguments = {
        "layout": Summary(4, 2, 2, outcomes.states.shape[1]),
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
        place = {"at": self.outcomes.starts[number], "end": self.outcomes.starts[number + 1], "recents": [1.0, 1.0]}
        return self.begin_cycle(place)

    def begin_cycle(self, place: dict[str, Any]) -> dict[str, Any]:
        return {**place, "depth": 0 if self.role == "depth" else self.partner[place["at"]]}

    def observe(self, place: dict[str, Any]) -> torch.Tensor:
        at, depth, outcomes = place["at"], int(place["depth"]), self.outcomes
        until = candidate_count(WIDTH, depth)
        newest = candidate_count(WIDTH, depth - 1) if depth > 0 else 0
        scores = torch.from_numpy(outcomes.scores[at : at + 1])
        if isinstance(self.layout, Layout):
            shown = scores[:, newest if self.role == "depth" else 0 : until]
            return self.layout.build(shown, outcomes.lengths[at], depth)[0]
        recents = torch.tensor([place["recents"][: self.layout.recents]])
        states = torch.from_numpy(outcomes.states[at : at + 1, : self.layout.states])
        return self.layout.build(scores[:, :until], newest, outcomes.lengths[at], depth, recents, states)[0]

    def step(self, place: dict[str, Any], action: int) -> tuple[dict[str, Any], tuple[int, float] | None]:
        """Where the environment is then, and what the cycle gained and cost, if it ended."""
        at, depth = place["at"], place["depth"]
        if self.role == "depth":
            depth += action
            if action == 1 and depth < self.outcomes.depth:
                return {**place, "depth": depth}, None
            action = self.partner[at, depth]
        gained, seconds = int(self.outcomes.gains[at, depth, action]), float(self.outcomes.seconds[at, depth, action])
        recents = [
            rate * mean + (1 - rate) * (gained - 1) for rate, mean in zip((0.5, 0.85), place["recents"], strict=True)
        ]
        place = {**place, "at": at + gained, "recents": recents}
        return (place if place["at"] == place["end"] else self.begin_cycle(place)), (gained, seconds)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    depth=st.integers(1, 3),
    role=st.sampled_from(ROLES),
    layout=st.integers(0, 4),
    environments=st.integers(1, 4),
    reward=st.sampled_from(list(REWARDS)),
)
def test_many_at_once_are_each_the_obvious(
    seed: int, counts: list[int], depth: int, role: str, layout: int, environments: int, reward: str
) -> None:
    outcomes = made_up(seed, tuple(counts), depth)
    chosen, partner = layouts_of(role, WIDTH, depth, STATE)[layout], partner_of(outcomes, role, seed)
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
        places, ends = [place for place, _ in moves], [end for _, end in moves]
        found = np.array([end for end in ends if end is not None]).reshape(-1, 2)
        expected = np.zeros(environments)
        expected[[end is not None for end in ends]] = worth(found[:, 0].astype(int), found[:, 1].astype(np.float32))
        np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-6)
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


# --- rewards ---


def test_rewards_count_in_plain_tokens() -> None:
    tokens, seconds = np.array([1, 4]), np.array([0.5, 1.0], dtype=np.float32)
    expected = {"ratio": [1.0, 2.0], "renewal": [0.0, 2.0], "length": [1.0, 4.0], "time": [-1.0, -2.0]}
    for name, values in expected.items():
        rewards = Reward.named(name, 0.5)(tokens, seconds)
        assert rewards.dtype == np.float32 and rewards.tolist() == values


def test_renewal_follows_the_throughput() -> None:
    reward, generator = Reward.named("renewal", 0.1), np.random.default_rng(0)
    for level in (2.0, 5.0):  # the policy gets better
        for _ in range(200):
            tokens = generator.integers(1, 8, 100)
            given = reward(tokens, (0.1 * tokens / level).astype(np.float32))
        np.testing.assert_allclose(given, 0.0, atol=0.2)
        np.testing.assert_allclose(reward.speedup, level, rtol=0.03)
    again = Reward.named("renewal", 0.1)
    again.load_state_dict(reward.state_dict())
    assert again.speedup == reward.speedup
    reward.restart()
    assert reward.state_dict() == {"tokens": PRIOR, "times": PRIOR}


@pytest.mark.parametrize(("name", "seconds", "complaint"), [("speed", 1.0, "no reward 'speed'"), ("time", 0.0, "0.0")])
def test_bad_rewards(name: str, seconds: float, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Reward.named(name, seconds)


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
        ("size", {"layout": Summary(1, 1, 3)}, "3 recents"),
        ("size", {"layout": Summary(1, 1, 0, 4)}, "4 states"),
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


# --- live ---


class Abacus:
    """Stands in for a latency model."""

    def plain(self, length: Any) -> Any:
        return 1.0 + 0.0 * length

    def cycle(self, depth: Any, size: Any, length: Any, gain: Any) -> Any:
        return 1.0 + 0.1 * depth + 0.01 * size + 0.0 * (length + gain)


def live(run: Recorded, role: str, **changes: Any) -> LiveEnv:
    """An environment of the first recorded question."""
    generation = run.traces.generations[0]
    arguments: dict[str, Any] = {
        "prompts": [generation.tokens[: generation.prompt_length].tolist()],
        "layout": Summary(4, 2, 2, generation.states.shape[1]),
        "reward": Reward.named("length", 1.0),
        "partner": Static(2, 20),
        "depth": DEPTH,
        "sizes": (5, 20, 60),
        "max_new_tokens": NEW_TOKENS,
    }
    env = gymnasium.make(f"ltd/{role.capitalize()}Live-v0", decoder=run.decoder, **{**arguments, **changes}).unwrapped
    assert isinstance(env, LiveEnv)
    return env


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", range(3))
def test_live_and_replay_are_the_same(recorded: Callable[[str], Recorded], family: str, role: str, layout: int) -> None:
    found = recorded(family)
    generation = found.traces.generations[0]
    outcomes = outcomes_of([generation], Abacus(), (5, 20, 60))  # type: ignore[arg-type]
    chosen = layouts_of(role, 10, DEPTH, generation.states.shape[1])[layout]
    table = np.full((generation.positions, DEPTH + 1), 1) if role == "depth" else np.full(generation.positions, 2)
    replayed = ReplayEnv(outcomes, role, chosen, Reward.named("length", 1.0), table)  # type: ignore[arg-type]
    env, generator = live(found, role, layout=chosen), np.random.default_rng(0)
    for _ in range(2):
        (seen, _), (expected, _), over = env.reset(), replayed.reset(), False
        while not over:
            np.testing.assert_allclose(seen, expected, rtol=2e-3, atol=2e-3)  # states are recorded in float16
            action = np.int64(generator.integers(env.action_space.n) if role == "size" else generator.random() < 0.7)
            seen, gained, over, _, info = env.step(action)
            expected, tokens, also_over, _, also_info = replayed.step(action)
            assert (gained, over) == (tokens, also_over)
        for name in ("r", "l", "tokens", "cycles"):
            assert info["answer"][name] == also_info["answer"][name]
        assert env.request.answers[0] == generation.tokens[generation.prompt_length :].tolist()


@dataclass
class Spy:
    """A policy at inference that does what it is told, and keeps what it sees."""

    actions: list[int]
    layout: Layout
    max_depth: int = DEPTH
    max_size: int = 20
    seen: list[np.ndarray] = field(default_factory=list)

    def speculate(self, lengths: torch.Tensor) -> bool:
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        self.seen.append(self.layout.build(tree.newest_scores, tree.lengths, depth)[0].numpy())
        return self.actions[len(self.seen) - 1] == 1

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return 20


def test_training_sees_what_inference_sees(recorded: Callable[[str], Recorded]) -> None:
    found = recorded("llama")
    env, generator = live(found, "depth", layout=depth_layout(10)), np.random.default_rng(3)
    (seen, _), over, actions, observations = env.reset(), False, [], []
    while not over:
        actions.append(int(generator.random() < 0.7))
        observations.append(seen)
        seen, _, over, _, info = env.step(np.int64(actions[-1]))
    spy = Spy(actions, depth_layout(10))
    answer = found.decoder.generate(env.prompts[0], max_new_tokens=NEW_TOKENS, policy=spy)
    np.testing.assert_array_equal(spy.seen, observations)
    assert info["answer"]["cycles"] == len(answer.statistics.depths)
    assert env.statistics.depths == answer.statistics.depths and env.statistics.gains == answer.statistics.gains


def test_a_live_cycle_costs_its_laps_without_the_prefill(recorded: Callable[[str], Recorded]) -> None:
    for role in ROLES:
        env = live(recorded("llama"), role, reward=Reward.named("time", 1.0), partner=Static(2, 20))
        env.reset()
        over, total = False, 0.0
        while not over:
            _, reward, over, _, info = env.step(np.int64(0))
            assert reward < 0
            total -= reward
        spent = env.statistics.seconds
        assert spent["prefill"] > 0 and info["answer"]["seconds"] == pytest.approx(total)
        measured = sum(spent[name] for name in ("draft", "select", "verify", "accept", "commit", "other"))
        assert total == pytest.approx(measured, rel=0.05)  # what begins the first cycle is no cycle's


@pytest.mark.parametrize("role", ROLES)
def test_the_live_environments_pass_the_checkers(recorded: Callable[[str], Recorded], role: str) -> None:
    env = live(recorded("llama"), role, partner=Static(2, 20) if role == "depth" else "random")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        check_for_sb3(env)
    env.close()


def test_live_random_depths_are_reproducible(recorded: Callable[[str], Recorded]) -> None:
    env, depths = live(recorded("llama"), "size", partner="random"), []
    for seed in (5, 5, 6):
        over = not env.reset(seed=seed)
        while not over:
            _, _, over, _, _ = env.step(np.int64(0))
        depths.append(list(env.statistics.depths))
    assert depths[0] == depths[1] != depths[2]
    assert set(depths[0]) | set(depths[2]) == set(range(1, DEPTH + 1))


@pytest.mark.parametrize(
    ("role", "changes", "complaint"),
    [
        ("depth", {"prompts": []}, "no prompt"),
        ("depth", {"prompts": [[]]}, "prompt is empty"),
        ("depth", {"partner": "random"}, "partner 'random'"),
        ("depth", {"depth": 0}, "depth 0"),
        ("size", {"sizes": (5, 5)}, "no ladder"),
        ("size", {"layout": Layout(1, 1)}, "1 slots"),
        ("size", {"layout": Summary(1, 1, 0, 7)}, "7 states"),
    ],
)
def test_bad_live_arguments(
    recorded: Callable[[str], Recorded], role: str, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        live(recorded("llama"), role, **changes)


def test_a_live_environment_needs_a_head_and_a_second_token(recorded: Callable[[str], Recorded]) -> None:
    found = recorded("llama")
    with pytest.raises(InputError, match="second token"):
        live(found, "depth", max_new_tokens=1).reset()
    bare = type(found.decoder)(found.decoder.target)
    with pytest.raises(InputError, match="EAGLE-3 head"):
        live(replace(found, decoder=bare), "depth")
