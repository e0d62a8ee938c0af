"""A cycle is an episode, as in the paper's training.

If an episode went on to the end of an answer, a depth policy with little discount would do best with as many cycles as
it can have, each of which pays a ratio, and so stop at once. So each cycle counts by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ltd_rl.environments.replay_env import ReplayVecEnv
from ltd_rl.traces.observations import Role


class CycleEpisodes(VecEnvWrapper):
    """Says that an episode is over where the next observation is the first of a cycle.

    Args:
        venv: replay environments, or live ones in a `DummyVecEnv`; they walk on through their answers as before.
        role: of the policy.
    """

    def __init__(self, venv: VecEnv, role: Role) -> None:
        super().__init__(venv)
        self.role = role

    def reset(self) -> VecEnvObs:
        """float32 (n, width): the first observations."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, rewards, dones and infos."""
        observations, rewards, _, infos = self.venv.step_wait()
        return observations, rewards, self._begun(), infos

    def _begun(self) -> NDArray[np.bool_]:
        """bool (n,): where a cycle has just begun. A size policy is asked once in each."""
        if self.role == "size":
            return np.ones(self.num_envs, dtype=bool)
        if isinstance(self.venv, ReplayVecEnv):
            return np.equal(self.venv.walk.depths, self.venv.walk.first)
        return np.equal(self.venv.get_attr("expansions"), 0)
