"""The environments' names and spaces."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from ltd.policies.learned.observation import Layout, Summary
from ltd_rl.traces.observations import Role

LARGEST = 1000.0  # beyond any number in an observation: scores are clamped, and lengths counted in thousands


def observation_space(layout: Layout | Summary) -> Box[np.float32]:
    """float32 (width,)."""
    return Box(-LARGEST, LARGEST, (layout.width,), np.float32)


def action_space(role: Role, sizes: int) -> Discrete:
    """Stop or continue for a depth policy; the step of a ladder of so many sizes for a size policy."""
    return Discrete(2 if role == "depth" else sizes)


def register() -> None:
    """Makes the environments known to `gymnasium.make`."""
    roles: tuple[Role, ...] = ("depth", "size")
    for role in roles:
        name = role.capitalize()
        gymnasium.register(
            f"ltd/{name}Replay-v0",
            "ltd_rl.environments.replay_env:ReplayEnv",
            kwargs={"role": role},
            disable_env_checker=True,
        )
        # What a live cycle is worth is measured, and no two measurements are the same.
        gymnasium.register(
            f"ltd/{name}Live-v0",
            "ltd_rl.environments.live_env:LiveEnv",
            kwargs={"role": role},
            nondeterministic=True,
            disable_env_checker=True,
        )
