"""Replay environments: one for Gymnasium, and many at once for Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ltd.common.arrays import Floats
from ltd.policies.learned.observation import Layout, Summary
from ltd_rl.environments.registration import action_space, observation_space
from ltd_rl.environments.rewards import Reward
from ltd_rl.environments.walk import PartnerDecisions, Walk
from ltd_rl.traces.observations import Role
from ltd_rl.traces.outcomes import Outcomes


class ReplayEnv(gymnasium.Env[Floats, np.int64]):
    """One environment; an episode is a generation. `ltd/DepthReplay-v0` and `ltd/SizeReplay-v0`.

    `reset(seed=…)` makes everything after it reproducible: the order, the random depths, and the reward, which forgets.
    After the end there is nothing to see: the last observation is all 0. Where a cycle ends, the info has `cycle`, with
    its reward, tokens, seconds, depth, size, and the length of the context before it. The last step's info has `answer`
    too, with the reward r, the length l in steps, tokens, seconds and cycles (SB3's and Gymnasium's wrappers own
    `episode`).

    Args:
        outcomes, role, layout, reward, partner: as `ltd_rl.environments.walk.Walk` takes them.

    Raises:
        InputError: as `Walk`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        outcomes: Outcomes,
        role: Role,
        layout: Layout | Summary,
        reward: Reward,
        partner: PartnerDecisions,
    ) -> None:
        self.walk = Walk(outcomes, role, layout, reward, partner, 1, self.np_random)
        self.observation_space = observation_space(layout)
        self.action_space = action_space(role, len(outcomes.sizes))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begins the next generation, with a seed the first of a new order."""
        super().reset(seed=seed)
        if seed is not None:
            self.walk.seed(self.np_random)
            self.walk.reward.restart()
        self.walk.begin(np.arange(1))
        return self.walk.observe()[0], {}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Observation, reward, whether the answer has ended, False, info."""
        step = self.walk.step(np.array([action]))
        reward = float(step.rewards[0])
        info: dict[str, Any] = {"cycle": step.cycle(0)} if len(step.done) else {}
        if not step.over[0]:
            return self.walk.observe()[0], reward, False, False, info
        nothing = np.zeros(self.observation_space.shape or (), dtype=np.float32)
        return nothing, reward, True, False, {**info, "answer": self.walk.episode(0)}


class ReplayVecEnv(VecEnv):
    """Many environments in one, which is what makes replaying fast. Walks on by itself where a generation ends.

    The infos have the `cycle` of `ReplayEnv`; those of such a step have `terminal_observation`, all 0, and `episode`,
    which is the `answer` of `ReplayEnv`. Nothing is ever truncated.

    Args:
        outcomes, role, layout, reward, partner, count: as `ltd_rl.environments.walk.Walk` takes them.
        seed: of everything random.

    Raises:
        InputError: as `Walk`.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        role: Role,
        layout: Layout | Summary,
        reward: Reward,
        partner: PartnerDecisions,
        count: int,
        seed: int,
    ) -> None:
        self.walk = Walk(outcomes, role, layout, reward, partner, count, np.random.default_rng(seed))
        self.render_mode = None
        super().__init__(count, observation_space(layout), action_space(role, len(outcomes.sizes)))
        self.actions = np.zeros(count, dtype=np.int64)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Makes everything after the next `reset` reproducible; None changes nothing."""
        if seed is not None:
            self.walk.seed(np.random.default_rng(seed))
        return [seed] * self.num_envs

    def reset(self) -> VecEnvObs:
        """float32 (n, width): every environment begins its next generation."""
        self.walk.begin(np.arange(self.num_envs))
        return self.observe()

    def observe(self) -> Floats:
        """float32 (n, width): what the policies see now; what `reset` returned, or the last step."""
        return self.walk.observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions, whole numbers (n,)."""
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, rewards, dones and infos of the actions."""
        step = self.walk.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row, environment in enumerate(step.done.tolist()):
            infos[environment] = {"cycle": step.cycle(row)}
        over = np.flatnonzero(step.over)
        for environment in over.tolist():
            nothing = np.zeros(self.observation_space.shape or (), dtype=np.float32)
            infos[environment] |= {"terminal_observation": nothing, "episode": self.walk.episode(environment)}
        self.walk.begin(over)
        return self.observe(), step.rewards, step.over, infos

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, the reward's state included."""
        return self.walk.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where an environment of the same arguments was; `observe` then tells what is seen.

        Raises:
            InputError: it was another one.
        """
        self.walk.load_state_dict(state)

    def close(self) -> None:
        """Nothing to do."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, which all environments share, once for each."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of all."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Calls a method, once for each."""
        return [getattr(self, method_name)(*arguments, **options) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """No."""
        return [False for _ in self._get_indices(indices)]
