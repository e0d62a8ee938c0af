"""The live environments against replayed ones and against inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from made_costs import Abacus
from made_outcomes import KNOWN, ROLES, STATE, layouts_of, random_network
from recordings import DEPTH, NEW_TOKENS, Recorded
from stable_baselines3.common.env_checker import check_env as check_for_sb3

import ltd_rl.environments  # noqa: F401 (registers)
from ltd.decoding.workspace import recorded_sizes
from ltd.errors import InputError
from ltd.policies import Learned, Static
from ltd.policies.learned.allowance import Allowance, Costs
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import LearnedCall
from ltd.policies.learned.setting import Setting
from ltd.tree import DraftTree
from ltd_rl.environments.live_env import LiveEnv
from ltd_rl.environments.live_partners import SteeredCall
from ltd_rl.environments.replay_env import ReplayEnv
from ltd_rl.environments.rewards import Reward
from ltd_rl.traces.outcomes import outcomes_of

SIZES = (5, 20, 60)


def live(run: Recorded, role: str, **changes: Any) -> LiveEnv:
    """An environment of the first recorded question."""
    generation = run.traces.generations[0]
    arguments: dict[str, Any] = {
        "prompts": [generation.tokens[: generation.prompt_length].tolist()],
        "layout": Summary(4, 2, generation.states.shape[1]),
        "reward": Reward.named("length", 1.0),
        "partner": Static(2, 20),
        "depth": DEPTH,
        "sizes": SIZES,
        "max_new_tokens": NEW_TOKENS,
    }
    env = gymnasium.make(f"ltd/{role.capitalize()}Live-v0", decoder=run.decoder, **{**arguments, **changes}).unwrapped
    assert isinstance(env, LiveEnv)
    return env


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", range(4))
def test_live_and_replay_are_the_same(recorded: Callable[[str], Recorded], family: str, role: str, layout: int) -> None:
    found = recorded(family)
    generation = found.traces.generations[0]
    outcomes = outcomes_of([generation], Abacus(), SIZES)  # type: ignore[arg-type]
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
            cycles = [{**each["cycle"], "seconds": 0} if "cycle" in each else None for each in (info, also_info)]
            assert cycles[0] == cycles[1]
        for name in ("r", "l", "tokens", "cycles"):
            assert info["answer"][name] == also_info["answer"][name]
        assert env.request.answers[0] == generation.tokens[generation.prompt_length :].tolist()


@dataclass
class Spy:
    """A policy at inference that does what it is told, and keeps what it sees of its role's questions."""

    role: str
    actions: list[int]
    layout: Layout | Summary
    max_depth: int = DEPTH
    max_size: int = 60
    seen: list[np.ndarray] = field(default_factory=list)

    def start(self, batch: int) -> Spy:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        return True

    def answer(self, tree: DraftTree, depth: int) -> int:
        """Looks, and does what it is told."""
        scores = tree.scores[:, : tree.candidates]
        if isinstance(self.layout, Layout):
            shown = tree.newest_scores if self.role == "depth" else scores
            self.seen.append(self.layout.build(shown, tree.lengths, depth)[0].numpy())
        else:
            seen = self.layout.build(scores, tree.newest_from, tree.lengths, depth, scores[:, :0])
            self.seen.append(seen[0].numpy())
        return self.actions[len(self.seen) - 1]

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return self.answer(tree, depth) == 1 if self.role == "depth" else depth < 2

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        return SIZES[self.answer(tree, depth)] if self.role == "size" else 20


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", [0, 3, 5])
def test_training_sees_what_inference_sees(recorded: Callable[[str], Recorded], role: str, layout: int) -> None:
    found, chosen = recorded("llama"), layouts_of(role, 10, DEPTH, STATE)[layout]
    env, generator = live(found, role, layout=chosen), np.random.default_rng(3)
    (seen, _), over, actions, observations = env.reset(), False, [], []
    while not over:
        actions.append(int(generator.integers(env.action_space.n)))
        observations.append(seen)
        seen, _, over, _, info = env.step(np.int64(actions[-1]))
    shown = np.stack(observations)[:, chosen.length if isinstance(chosen, Layout) else 2 * chosen.ranked + 2]
    if chosen.length_range == KNOWN:
        assert 0.02 <= shown.min() < shown.max() == np.float32(0.04)
    else:
        assert shown.max() > 0.04
    spy = Spy(role, actions, chosen)
    answer = found.decoder.generate(env.prompts[0], max_new_tokens=NEW_TOKENS, policy=spy)
    np.testing.assert_allclose(spy.seen, observations, rtol=1e-6, atol=1e-6)
    assert info["answer"]["cycles"] == len(answer.statistics.depths)
    assert env.statistics.depths == answer.statistics.depths and env.statistics.gains == answer.statistics.gains


def test_trees_have_the_width_of_the_traces(recorded: Callable[[str], Recorded]) -> None:
    run = recorded("llama")
    env = live(run, "size", layout=Summary(3, 2), width=3)
    env.reset(seed=0)
    assert env.tree.width == 3 != run.decoder.draft.width


def test_the_sizes_that_are_verified_are_known_beforehand(recorded: Callable[[str], Recorded]) -> None:
    """So a GPU records them, and verifies no more than the one that is asked for."""
    found, layout = recorded("llama"), Summary(4, 2)
    learned = Learned(Setting(10), DEPTH, SIZES, None, random_network(layout, len(SIZES), seed=1))
    cases: list[tuple[str, Any, tuple[int, ...]]] = [
        ("size", Static(2, 20), (0, *SIZES)),
        ("size", "random", (0, *SIZES)),
        ("depth", learned, (0, *SIZES)),
        ("depth", Static(2, 20), (0, 4, 8, 16, 20)),  # what it has of them depends on the depth
    ]
    for role, partner, sizes in cases:
        policy = live(found, role, layout=layout, partner=partner).speculation.policy
        assert recorded_sizes(policy) == sizes and all(type(size) is int for size in recorded_sizes(policy))


@pytest.mark.parametrize("role", ROLES)
def test_a_partner_remembers_as_at_inference(recorded: Callable[[str], Recorded], role: str) -> None:
    """A learned partner is told every gain: its allowance is that of all cycles so far."""
    layout, costs, remembered = Summary(4, 2), Costs(0.3, 0.1, (1.2,) * len(SIZES)), set()
    networks = random_network(layout, 2, seed=0), random_network(layout, len(SIZES), seed=1)
    partner = Learned(Setting(10), DEPTH, SIZES, *networks, costs=costs)
    env = live(recorded("llama"), role, layout=layout, partner=partner)
    over, generator = not env.reset(), np.random.default_rng(0)
    while not over:
        call = env.speculation.call
        assert isinstance(call, SteeredCall) and isinstance(call.partner, LearnedCall)
        expected = Allowance()
        for depth, gained in zip(env.statistics.depths, env.statistics.gains, strict=True):
            expected.book(gained, costs.of(depth, 0))
        assert call.partner.allowance.balance == expected.balance
        remembered.add(expected.balance)
        _, _, over, _, _ = env.step(np.int64(generator.integers(env.action_space.n)))
    assert len(remembered) > 2


def test_a_live_cycle_costs_its_laps_without_the_prefill(recorded: Callable[[str], Recorded]) -> None:
    for role in ROLES:
        env = live(recorded("llama"), role, reward=Reward.named("time", 1.0), partner=Static(2, 20))
        env.reset()
        over, total, parts = False, 0.0, 0.0
        while not over:
            _, reward, over, _, info = env.step(np.int64(0))
            assert reward < 0
            total -= reward
            parts += info["cycle"]["seconds"] if reward else 0.0
        spent = env.statistics.seconds
        assert parts == pytest.approx(total)
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
        ("size", {"layout": Summary(1, 1, 7)}, "7 states"),
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
    with pytest.raises(InputError, match="needs a decoder with a draft; load one"):
        live(replace(found, decoder=bare), "depth")
