"""Validation: what a network in training comes to on generations that it is not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltd.common.arrays import Integers
from ltd.policies.learned.network import Activation, Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.sb3_import import action_tensors
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.observations import Observer, Role, chosen_steps, looks_up, stops
from ltd_rl.traces.outcomes import Outcomes, Total, plain_total, total

Figures = dict[str, float]


@dataclass(frozen=True, eq=False)  # no slots: they leave no room for what is worked out once
class Judge:
    """Decides everywhere with a network and its partner, and adds up.

    Args:
        outcomes: of the held-out generations.
        role: of the network.
        layout: of its observation.
        partner: for a depth network int64 (P, stages), steps of the ladder; for a size network int64 (P,), depths.
            Stages are 0 … D, and then -1 where tokens are looked up.
    """

    outcomes: Outcomes
    role: Role
    layout: Layout | Summary
    partner: Integers

    @cached_property
    def observer(self) -> Observer:
        """What the networks see, for all validations."""
        return Observer(self.outcomes, self.layout, self.role)

    def network(self, state: Mapping[str, Tensor], activation: Activation = "relu") -> Network:
        """The action network in the `state_dict` of Stable-Baselines3's policy."""
        return Network(self.layout, action_tensors(state, "the policy in training"), activation)

    def total(self, network: Network) -> Total:
        """What the network decides comes to."""
        setting, outcomes, text = Setting(self.outcomes.width), self.outcomes, looks_up(self.outcomes, self.layout)
        if self.role == "depth":
            policy = Learned(setting, outcomes.depth, outcomes.sizes[:1], depth_network=network, **text)
            depths = stops(policy, outcomes, self.observer)
            return total(outcomes, depths, self.partner[np.arange(outcomes.positions), depths])
        policy = Learned(setting, outcomes.depth, outcomes.sizes, size_network=network, **text)
        return total(outcomes, self.partner, chosen_steps(policy, outcomes, self.partner, self.observer))

    def evaluate(self, network: Network) -> Figures:
        """The same as `figures`."""
        return figures(self.total(network), self.outcomes)


def figures(found: Total, outcomes: Outcomes) -> Figures:
    """Tokens per second as `throughput`, τ as `acceptance_length`, and the `speedup` over plain decoding."""
    return {
        "throughput": found.throughput,
        "acceptance_length": found.acceptance_length,
        "speedup": found.throughput / plain_total(outcomes).throughput,
    }


def fingerprint(*arrays: NDArray[Any]) -> str:
    """A short hash of tables, to tell whether two runs had the same."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
