"""What a cycle is worth to a policy in training: one table for all trainers, for replayed and for live cycles.

`REWARDS` holds every reward: its formula, which trainers know it, and what it is in a few words.

Seconds are counted in plain tokens, that is divided by the seconds of one token of plain decoding. That makes every
reward of order 1, as PPO's value loss wants it, and changes no policy: it is a constant factor. A ratio is then a
speedup. The exact trainer counts them in tokens at the throughput of its policies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError

WINDOW = 5000.0  # cycles that `Renewal` averages over: longer than a rollout, much shorter than a training
PRIOR = 50.0  # cycles of plain decoding that it has seen before the first
TRAINERS = ("exact", "ppo")

Numbers = TypeVar("Numbers", NDArray[Any], torch.Tensor)


class Reward(ABC):
    """Rewards of cycles, one after the other, as PPO asks for them.

    Args:
        plain_seconds: of one token of plain decoding.
        known_speedup: a throughput that can be reached, in tokens per plain token's time; 0 if none is known.

    Raises:
        InputError: seconds that are not positive.
    """

    def __init__(self, plain_seconds: float, known_speedup: float = 0.0) -> None:
        if not 0 < plain_seconds < np.inf:
            raise InputError(f"plain_seconds is {plain_seconds}; it must be a positive number of seconds")
        self.plain_seconds, self.known_speedup = plain_seconds, known_speedup

    def __call__(self, tokens: Integers, seconds: Floats) -> Floats:
        """float32 (n,): of n cycles that gained so many tokens, int64 (n,), in so many seconds, float32 (n,)."""
        return self.worth(tokens, seconds / self.plain_seconds).astype(np.float32)

    @staticmethod
    @abstractmethod
    def formula(tokens: Numbers, times: Numbers) -> Numbers:
        """The rewards, of any shape. `times` are in tokens: seconds times a throughput, λ where the reward has one."""

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """(n,): the rewards; `times` (n,) are in plain tokens. A reward that learns from the cycles does so here."""
        return self.formula(tokens, times)

    def restart(self) -> None:
        """Forgets all cycles."""
        self.load_state_dict(type(self)(self.plain_seconds, self.known_speedup).state_dict())

    def state_dict(self) -> dict[str, float]:
        """What was learned from the cycles so far, as values for JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on from a `state_dict`.

        Raises:
            InputError: it is another reward's.
        """
        if state.keys() != self.state_dict().keys():
            raise InputError(f"the state of the reward holds {', '.join(state) or 'nothing'}; it is another reward's")

    @staticmethod
    def named(name: str, plain_seconds: float, known_speedup: float = 0.0) -> Reward:
        """The reward of that name in the table; for the numbers see `Reward`.

        Raises:
            InputError: there is none, or seconds that are not positive.
        """
        check_reward(name)
        return REWARDS[name].kind(plain_seconds, known_speedup)


class RatioReward(Reward):
    """L_A / T, the cycle's own throughput: the paper's (section 4). Its mean overvalues cheap cycles."""

    @staticmethod
    def formula(tokens: Numbers, times: Numbers) -> Numbers:
        """L_A / T."""
        reward: Numbers = tokens / times
        return reward


class RenewalReward(Reward):
    """L_A - λ * T, with λ the present throughput ΣL_A / ΣT (Dinkelbach).

    What maximises its sum at a constant λ has a throughput of at least λ, and of exactly λ only at the optimum; so
    following λ leads to the policy with the largest ΣL_A / ΣT. Both sums fade with a window of 5000 cycles. λ is never
    below what is known to be reachable: beside a partner that draws its depths at random, the present throughput is
    poor, seconds would look cheap, and a size policy would learn to verify too much.

    Attributes:
        tokens, times: the two sums; times in plain tokens.
    """

    def __init__(self, plain_seconds: float, known_speedup: float = 0.0) -> None:
        super().__init__(plain_seconds, known_speedup)
        self.tokens, self.times = PRIOR, PRIOR

    @property
    def speedup(self) -> float:
        """λ in tokens per plain token's time."""
        return max(self.known_speedup, self.tokens / self.times)

    @staticmethod
    def formula(tokens: Numbers, times: Numbers) -> Numbers:
        """L_A - T, times in tokens at the throughput λ."""
        reward: Numbers = tokens - times
        return reward

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """With the λ of before these cycles, which only then count."""
        worth = self.formula(tokens, self.speedup * times)
        kept = (1 - 1 / WINDOW) ** len(tokens)
        self.tokens = kept * self.tokens + float(tokens.sum())
        self.times = kept * self.times + float(times.sum(dtype=np.float64))
        return worth

    def state_dict(self) -> dict[str, float]:
        """The two sums."""
        return {"tokens": self.tokens, "times": self.times}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Sets the two sums."""
        super().load_state_dict(state)
        self.tokens, self.times = state["tokens"], state["times"]


class LengthReward(Reward):
    """L_A alone, an ablation of the paper: what a cycle costs does not count."""

    @staticmethod
    def formula(tokens: Numbers, times: Numbers) -> Numbers:
        """L_A."""
        return tokens


class TimeReward(Reward):
    """-T alone, an ablation of the paper: what a cycle gains does not count."""

    @staticmethod
    def formula(tokens: Numbers, times: Numbers) -> Numbers:
        """-T."""
        return -times


@dataclass(frozen=True, slots=True)
class RewardEntry:
    """A row of the table.

    Attributes:
        kind: the class.
        trainers: that know it, of `TRAINERS`.
        description: for people, a few words.
    """

    kind: type[Reward]
    trainers: tuple[str, ...]
    description: str


# The two ablations count only a part of what a cycle does. What is best for them needs no trainer, it is the largest
# tree or none; they show what PPO makes of them.
REWARDS: dict[str, RewardEntry] = {
    "ratio": RewardEntry(RatioReward, TRAINERS, "tokens per second of each cycle, the paper's"),
    "renewal": RewardEntry(RenewalReward, TRAINERS, "tokens less λ for every second, λ being the present throughput"),
    "length": RewardEntry(LengthReward, ("ppo",), "tokens, whatever they cost"),
    "time": RewardEntry(TimeReward, ("ppo",), "less for every second, whatever is gained"),
}


def rewards_of(trainer: str) -> list[str]:
    """The names of the rewards that a trainer knows."""
    return [name for name, entry in REWARDS.items() if trainer in entry.trainers]


def check_reward(name: str, trainer: str = "ppo") -> None:
    """Raises InputError unless there is such a reward, and the trainer knows it."""
    if name not in REWARDS:
        raise InputError(f"there is no reward {name!r}; there are {', '.join(REWARDS)}")
    if trainer not in REWARDS[name].trainers:
        raise InputError(f"the {trainer} trainer knows the rewards {' and '.join(rewards_of(trainer))}, not {name}")


def describe_rewards(trainer: str) -> str:
    """The rewards that a trainer knows, for help texts: each name with its description."""
    return "; ".join(f"{name} ({REWARDS[name].description})" for name in rewards_of(trainer))
