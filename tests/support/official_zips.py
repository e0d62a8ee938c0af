"""Zips as the official scripts save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO


class Nothing(gymnasium.Env[Any, Any]):
    """Random observations of a width, and random rewards for a number of actions; cycles of two steps."""

    def __init__(self, inputs: int, actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (inputs,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.steps = 0

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=0)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps % 2 == 0, False, {}


def official_zip(file: Path, inputs: int, actions: int) -> Path:
    """A policy after 32 steps, with Stable-Baselines3's own activation, as the official scripts leave it."""
    architecture = {"pi": [16, 8], "vf": [16, 8]}
    kwargs: dict[str, Any] = {
        "n_steps": 32,
        "batch_size": 16,
        "n_epochs": 1,
        "policy_kwargs": {"net_arch": architecture},
    }
    PPO("MlpPolicy", Nothing(inputs, actions), seed=0, device="cpu", **kwargs).learn(32).save(file)
    return file
