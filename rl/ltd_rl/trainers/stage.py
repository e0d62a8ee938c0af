"""One training of one policy against one partner, put together from outcomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from stable_baselines3.common.vec_env import VecEnv

from ltd.common.arrays import Integers
from ltd.common.journal import Record
from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary, depth_layout, size_layout
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd_rl.environments.cycle_episodes import CycleEpisodes
from ltd_rl.environments.replay_env import ReplayVecEnv
from ltd_rl.environments.rewards import Reward
from ltd_rl.traces.limits import summary_for
from ltd_rl.traces.observations import Role
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, plain_total
from ltd_rl.trainers.partners import RANDOM, constants, depth_table, random_depths, size_table
from ltd_rl.trainers.ppo import PPOResult, train
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.validation import Judge, fingerprint

OBSERVATIONS = ("paper", "summary", "summary+state")
Partner = int | Learned | Literal["random"]


@dataclass(frozen=True, eq=False)  # no slots: they leave no room for what is worked out once
class Stage:
    """What is trained on what.

    Args:
        role: of the policy.
        layout: of its observation.
        reward: by name, see `ltd_rl.environments.rewards`.
        partner: for a depth policy a constant step of the ladder or a policy with a size network; for a size policy
            "random", a constant depth or a policy with a depth network.
        training, validation: the outcomes, with the same ladder and depths.

    Raises:
        InputError: a random partner for a depth policy.
    """

    role: Role
    layout: Layout | Summary
    reward: str
    partner: Partner
    training: Outcomes
    validation: Outcomes

    def __post_init__(self) -> None:
        if self.role == "depth" and isinstance(self.partner, str):
            raise InputError("a depth policy needs a constant size or a size policy beside it, not a random one")

    def train(
        self,
        config: PPOConfig,
        folder: Path,
        start: Path | None = None,
        env: VecEnv | None = None,
        keep: bool = False,
    ) -> PPOResult:
        """Trains in a folder, see `ltd_rl.trainers.ppo.train`.

        Args:
            env: takes the place of the replay environment.

        Raises:
            InputError: a partner or a reward that does not fit, or as `ltd_rl.trainers.ppo.train`.
        """
        judge = Judge(self.validation, self.role, self.layout, self._decisions(self.validation))
        cycles = CycleEpisodes(env or self.environment(config), self.role)
        return train(config, cycles, judge, folder, self.settings(live=env is not None), start, keep)

    def environment(self, config: PPOConfig) -> ReplayVecEnv:
        """Replayed generations."""
        outcomes = self.training
        partner = RANDOM if isinstance(self.partner, str) else self._in_training
        reward = reward_for(self.reward, outcomes)
        return ReplayVecEnv(outcomes, self.role, self.layout, reward, partner, config.count, config.seed)

    def settings(self, live: bool) -> Record:
        """What the result depends on besides the config."""
        tables = [(o.lengths, o.gains, o.seconds, o.scores, o.states, o.text) for o in (self.training, self.validation)]
        return {
            "role": self.role,
            "observation": {"kind": type(self.layout).__name__, **asdict(self.layout)},
            "reward": self.reward,
            "sizes": self.training.sizes,
            "width": self.training.width,
            "depth": self.training.depth,
            "traces_and_latencies": fingerprint(*tables[0], *tables[1]),
            "partner": self.partner if isinstance(self.partner, str) else fingerprint(self._in_training),
            "live": live,
        }

    @cached_property
    def _in_training(self) -> Integers:
        """The partner's table where the policy is trained."""
        return self._decisions(self.training)

    def _decisions(self, outcomes: Outcomes) -> Integers:
        """The partner's table; one draw of random depths."""
        if isinstance(self.partner, str):
            return random_depths(outcomes)
        if self.role == "depth":
            return size_table(self.partner, outcomes)
        return depth_table(self.partner, outcomes)


def reward_for(name: str, outcomes: Outcomes) -> Reward:
    """The reward of that name, which knows plain decoding and the best static setting on these outcomes."""
    known = best_static(outcomes)[2].throughput / plain_total(outcomes).throughput
    return Reward.named(name, float(outcomes.plain_seconds.mean()), known)


def check_observation(name: str) -> None:
    """Raises InputError unless it is known."""
    if name not in OBSERVATIONS:
        raise InputError(f"there is no observation {name!r}; there are {', '.join(OBSERVATIONS)}")


def layout_named(name: str, role: Role, outcomes: Outcomes) -> Layout | Summary:
    """The observation of a role: the `paper`'s, our `summary`, or that with the draft's state, `summary+state`.

    It shows the context lengths that the outcomes, which are to be trained on, have; and what the text proposes, where
    tokens are looked up.

    Raises:
        InputError: another name, the draft's state where it has none, or the paper's where tokens are looked up.
    """
    check_observation(name)
    if name == "summary+state" and not outcomes.states.shape[1]:
        raise InputError("the observation summary+state shows the draft's state, but this draft has none; use summary")
    if name != "paper":
        states = outcomes.states.shape[1] if name == "summary+state" else 0
        text = outcomes.text.shape[1]
        return replace(summary_for(outcomes.sizes), states=states, length_range=outcomes.length_range, text=text)
    if outcomes.max_text:
        raise InputError("the paper's observation does not show what the text proposes; use summary")
    layout = depth_layout(outcomes.width) if role == "depth" else size_layout(outcomes.width, outcomes.depth)
    return replace(layout, length_range=outcomes.length_range)


def constant_policy(outcomes: Outcomes, made_for: Setting) -> Learned:
    """No network yet: see `ltd_rl.trainers.partners.constants`."""
    depth, step = constants(outcomes)
    sizes = (outcomes.sizes[step],)
    return Learned(made_for, depth, sizes, max_text=outcomes.max_text, text_scores=outcomes.text_scores)


def with_network(policy: Learned, role: Role, network: Network, outcomes: Outcomes) -> Learned:
    """A policy with another network in one role, which decides among the outcomes' depths or sizes."""
    if role == "depth":
        return replace(policy, depth_network=network, depth_limit=outcomes.depth, min_depth=0)
    return replace(policy, size_network=network, sizes=outcomes.sizes, costs=None)  # those were of another ladder
