"""The settings of PPO; the defaults are the paper's (appendix A.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ltd.common.number_ranges import check_between, check_least, check_seed
from ltd.errors import InputError
from ltd.policies.learned.network import ACTIVATIONS, MAX_LAYERS, Activation
from ltd_rl.traces.observations import Role

WARMUP_SHARE = 0.01
PAPER: dict[Role, dict[str, Any]] = {
    "depth": {"total_timesteps": 1_000_000, "gamma": 0.999, "pi_arch": (1024,), "eval_freq": 20_480},
    "size": {"total_timesteps": 100_000, "gamma": 0.9, "pi_arch": (1024, 256), "eval_freq": 2_048},
}


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """How to train one policy; what is not here is Stable-Baselines3's default.

    Attributes:
        total_timesteps: decisions to learn from.
        gamma: discount per decision.
        pi_arch, vf_arch: hidden layers of the policy and the value network.
        eval_freq: steps between validations, each of which is a checkpoint.
        n_steps: decisions in the rollout buffer, of all environments together.
        batch_size: of the minibatches.
        n_epochs: passes over the buffer.
        ent_coef: weight of the entropy.
        lr: the highest learning rate.
        warmup_timesteps: until it is reached; None is 1 % of all.
        count: environments in parallel.
        seed: of weights, decisions and batches.
        activation: between the layers; the paper's is ReLU, and what its scripts save has tanh.
        target_kl: divergence from the policy of the rollout at which the passes over it end; None is no bound.

    Raises:
        InputError: a number out of range.
    """

    total_timesteps: int
    gamma: float
    pi_arch: tuple[int, ...]
    eval_freq: int
    vf_arch: tuple[int, ...] = (1024, 256)
    n_steps: int = 2048
    batch_size: int = 256
    n_epochs: int = 20
    ent_coef: float = 0.01
    lr: float = 1e-3
    warmup_timesteps: int | None = None
    count: int = 8
    seed: int = 0
    activation: Activation = "relu"
    target_kl: float | None = None

    @classmethod
    def paper(cls, role: Role, **changes: Any) -> PPOConfig:
        """The paper's settings of one policy, with changes; those that are None do not count."""
        return cls(**{**PAPER[role], **{name: value for name, value in changes.items() if value is not None}})

    def __post_init__(self) -> None:
        check_least(self, total_timesteps=1, eval_freq=1, n_steps=1, n_epochs=1, count=1)
        check_between(self, gamma=(0, 1), ent_coef=(0, 1e6), lr=(0, 1e6))
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
        if self.target_kl is not None and not 0 < self.target_kl < math.inf:
            raise InputError(f"target_kl is {self.target_kl}; it must be a positive number")
        check_seed(self)
        for name in ("pi_arch", "vf_arch"):
            layers = getattr(self, name)
            if len(layers) >= MAX_LAYERS or any(units < 1 for units in layers):
                raise InputError(f"{name} is {list(layers)}; it must be fewer than {MAX_LAYERS} positive numbers")
        if self.n_steps % self.count or self.n_steps % self.batch_size or self.batch_size < 2:
            raise InputError(
                f"n_steps is {self.n_steps}; it must be a multiple of the {self.count} environments and of batch_size, "
                f"which is {self.batch_size} and must be at least 2"
            )
        if not 0 <= self.warmup < self.total_timesteps:
            raise InputError(f"warmup_timesteps is {self.warmup}; it must be less than all {self.total_timesteps}")

    @property
    def warmup(self) -> float:
        """Steps until the highest learning rate."""
        return WARMUP_SHARE * self.total_timesteps if self.warmup_timesteps is None else self.warmup_timesteps

    def learning_rate(self, remaining: float) -> float:
        """Up linearly from 0 during the warm-up, then down linearly to 0.

        Args:
            remaining: share of the steps to come, from 1; below 0 where the last rollout passed the end.
        """
        done = (1 - remaining) * self.total_timesteps
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * max(self.total_timesteps - done, 0) / (self.total_timesteps - self.warmup)
