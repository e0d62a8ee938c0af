"""What a cycle is worth to a policy in training; the same for replayed and for live cycles.

Seconds are counted in plain tokens, that is divided by the seconds of one token of plain decoding. That makes every
reward of order 1, as PPO's value loss wants it, and changes no policy: it is a constant factor. A ratio is then a
speedup.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from ltd.errors import InputError
from ltd_rl.traces.outcomes import Floats, Integers

WINDOW = 5000.0  # cycles that `Renewal` averages over: longer than a rollout, much shorter than a training
PRIOR = 50.0  # cycles of plain decoding that it has seen before the first


class Reward(ABC):
    """Rewards of cycles.

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

    @abstractmethod
    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """(n,): the rewards; `times` (n,) are in plain tokens."""

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
        """The reward of that name: ratio, renewal, length or time; for the numbers see `Reward`.

        Raises:
            InputError: there is none, or seconds that are not positive.
        """
        if name not in REWARDS:
            raise InputError(f"there is no reward {name!r}; there are {', '.join(REWARDS)}")
        return REWARDS[name](plain_seconds, known_speedup)


class Ratio(Reward):
    """L_A / T, the cycle's own throughput: the paper's (section 4). Its mean overvalues cheap cycles."""

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """Tokens per plain token's time."""
        return (tokens / times).astype(np.float32)


class Renewal(Reward):
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

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """With the λ of before these cycles, which only then count."""
        worth: Floats = tokens - self.speedup * times
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


class Length(Reward):
    """L_A alone, an ablation of the paper: what a cycle costs does not count."""

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """Tokens."""
        return tokens.astype(np.float32)


class Time(Reward):
    """-T alone, an ablation of the paper: what a cycle gains does not count."""

    def worth(self, tokens: Integers, times: Floats) -> Floats:
        """Minus the time."""
        return -times


REWARDS: dict[str, type[Reward]] = {"ratio": Ratio, "renewal": Renewal, "length": Length, "time": Time}
