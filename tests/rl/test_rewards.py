"""Rewards: their units, and what the renewal reward follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltd.cli.tune import REWARD_HELP
from ltd.errors import InputError
from ltd_rl.environments.rewards import (
    PRIOR,
    REWARDS,
    TRAINERS,
    Reward,
    check_reward,
    describe_rewards,
    rewards_of,
)


def test_rewards_count_in_plain_tokens() -> None:
    tokens, seconds = np.array([1, 4]), np.array([0.5, 1.0], dtype=np.float32)
    expected = {"ratio": [1.0, 2.0], "renewal": [0.0, 2.0], "length": [1.0, 4.0], "time": [-1.0, -2.0]}
    for name, values in expected.items():
        rewards = Reward.named(name, 0.5)(tokens, seconds)
        assert rewards.dtype == np.float32 and rewards.tolist() == values


def test_both_trainers_have_the_same_formulas() -> None:
    """In arrays for PPO and in tensors for the exact trainer; here λ is 1 and a plain token takes a second."""
    tokens, seconds = np.array([1, 3, 7]), np.array([0.5, 4.0, 2.0], dtype=np.float32)
    for name, entry in REWARDS.items():
        in_ppo = Reward.named(name, 1.0)(tokens, seconds)
        in_exact = entry.kind.formula(torch.from_numpy(tokens).float(), torch.from_numpy(seconds))
        assert in_exact.tolist() == in_ppo.tolist()


def test_the_table_says_who_knows_which_reward() -> None:
    assert rewards_of("exact") == ["ratio", "renewal"]
    assert rewards_of("ppo") == list(REWARDS) == ["ratio", "renewal", "length", "time"]
    assert {trainer for entry in REWARDS.values() for trainer in entry.trainers} == set(TRAINERS)
    with pytest.raises(InputError, match="the exact trainer knows the rewards ratio and renewal, not time"):
        check_reward("time", "exact")


def test_help_texts_say_what_the_table_says() -> None:
    """`ltd tune` has the names in a text of its own, because importing the table takes seconds."""
    shared, others = rewards_of("exact"), [name for name in rewards_of("ppo") if name not in rewards_of("exact")]
    wanted = f"What training maximises: {' or '.join(shared)}; with ppo also {' or '.join(others)}."
    assert wanted == REWARD_HELP
    for name, entry in REWARDS.items():
        assert f"{name} ({entry.description})" in describe_rewards("ppo")


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


def test_renewal_asks_no_less_than_what_is_known_to_be_reachable() -> None:
    reward = Reward.named("renewal", 1.0, known_speedup=2.0)
    for _ in range(50):
        given = reward(np.full(100, 1), np.full(100, 1.0, dtype=np.float32))  # no better than plain decoding
    assert reward.speedup == 2.0 and given[0] == -1.0
    for _ in range(500):
        reward(np.full(100, 6), np.full(100, 2.0, dtype=np.float32))
    np.testing.assert_allclose(reward.speedup, 3.0, rtol=0.01)
    reward.restart()
    assert reward.speedup == 2.0


@pytest.mark.parametrize(("name", "seconds", "complaint"), [("speed", 1.0, "no reward 'speed'"), ("time", 0.0, "0.0")])
def test_bad_rewards(name: str, seconds: float, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Reward.named(name, seconds)
