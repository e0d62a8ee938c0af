"""Replayed generations as a decision process: many environments at once, each walks one generation after another.

A cycle begins at a position, is decided there, and ends where its gain leads to. Everything about it is looked up in
`Outcomes`, so what the policy sees is always the present cycle's own, and every action counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import CONTINUE
from ltd.tree import NOT_ASKED
from ltd_rl.environments.rewards import Reward
from ltd_rl.traces.observations import Observer, Role, check_layout, first_asked
from ltd_rl.traces.outcomes import Outcomes, reading_after

PartnerDecisions = Integers | Literal["random"]
# What is known of an episode: SB3's names for its reward and its steps, then what its throughput needs.
EPISODE = ("r", "l", "tokens", "seconds", "cycles")
CYCLE = ("reward", "tokens", "seconds", "depth", "size", "length")  # of one that has ended; the context's is before it


@dataclass(frozen=True, slots=True)
class Step:
    """What one action of every environment led to.

    Attributes:
        rewards: float32 (n,), 0 where the cycle goes on.
        over: bool (n,), where the generation has ended and `begin` must follow.
        done: int64 (m,), the environments where a cycle has ended.
        cycles: float64 (m, 6), what those came to, by `CYCLE`.
    """

    rewards: Floats
    over: NDArray[np.bool_]
    done: Integers
    cycles: NDArray[np.float64]

    def cycle(self, row: int) -> dict[str, float]:
        """One of the cycles, by its names."""
        return dict(zip(CYCLE, self.cycles[row].tolist(), strict=True))


class Walk:
    """n environments of one role.

    A depth policy is asked at every depth below the deepest, where the cycle ends by itself; a size policy once per
    cycle. One that sees what the text proposes is asked at depth -1 first, whether to ask the head at all; what it
    gains without, the head reads as if it were asked in the next cycle.

    Args:
        outcomes: the generations; the order is drawn, all of them before any again.
        role: which of the two policies decides.
        layout: of its observation.
        reward: of a cycle at its end.
        partner: the other policy's decisions: for a depth policy the step of the ladder when stopping, int64
            (P, D + 1), and (P, D + 2) where tokens are looked up, the last column being of depth -1; for a size policy
            the depth, int64 (P,), or "random", uniform from 1 … D in every cycle (the paper's).
        count: n.
        generator: of everything random.

    Raises:
        InputError: nothing to walk or to decide, a layout or a partner that does not fit, or no environment.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        role: Role,
        layout: Layout | Summary,
        reward: Reward,
        partner: PartnerDecisions,
        count: int,
        generator: np.random.Generator,
    ) -> None:
        check_walk(outcomes, role, partner, count)
        self.outcomes, self.role, self.reward, self.partner = outcomes, role, reward, partner
        self.count, self.generator = count, generator
        self.observer = Observer(outcomes, layout, role)
        deepest = outcomes.depth - 1 if role == "depth" else outcomes.depth  # that the policy is asked at
        check_layout(layout, role, outcomes.width, deepest, outcomes.states.shape[1], outcomes.max_text)
        self.first = first_asked(layout)
        self.seconds = outcomes.seconds
        if outcomes.max_text:
            self.seconds = outcomes.seconds.copy()
            self.seconds[:, NOT_ASKED] += reading_after(outcomes)
        self.queue = np.zeros(0, dtype=np.int64)
        # Positions, where their generations end, and the depths of the present trees.
        self.at, self.limits, self.depths = (np.zeros(count, dtype=np.int64) for _ in range(3))
        self.episodes = np.zeros((count, len(EPISODE)))

    def seed(self, generator: np.random.Generator) -> None:
        """Starts everything random anew; `begin` must follow for all."""
        self.generator, self.queue = generator, self.queue[:0]

    def begin(self, environments: Integers) -> None:
        """Lets these environments, (m,), begin their next generations."""
        while len(self.queue) < len(environments):
            order = self.generator.permutation(len(self.outcomes.starts) - 1)
            self.queue = np.concatenate([self.queue, order])
        numbers, self.queue = self.queue[: len(environments)], self.queue[len(environments) :]
        starts = self.outcomes.starts
        self.at[environments], self.limits[environments] = starts[numbers], starts[numbers + 1]
        self.episodes[environments] = 0.0
        self._begin_cycles(environments)

    def _begin_cycles(self, environments: Integers) -> None:
        """The depth at which the policy is asked first."""
        if self.role == "depth":
            self.depths[environments] = self.first
        elif isinstance(self.partner, str):
            self.depths[environments] = self.generator.integers(1, self.outcomes.depth + 1, len(environments))
        else:
            self.depths[environments] = self.partner[self.at[environments]]

    def step(self, actions: Integers) -> Step:
        """Does what every environment's policy says, (n,)."""
        rewards, over = np.zeros(self.count, dtype=np.float32), np.zeros(self.count, dtype=bool)
        if self.role == "depth":
            self.depths += actions == CONTINUE
            done = np.flatnonzero((actions != CONTINUE) | (self.depths == self.outcomes.depth))
            assert not isinstance(self.partner, str)
            sizes = self.partner[self.at[done], self.depths[done]]
        else:
            done, sizes = np.arange(self.count), actions
        cycles = self._end_cycles(done, sizes)
        rewards[done] = cycles[:, 0]
        self.episodes[:, 0] += rewards
        self.episodes[:, 1] += 1
        over[done] = self.at[done] == self.limits[done]
        self._begin_cycles(done[~over[done]])
        return Step(rewards, over, done, cycles)

    def _end_cycles(self, environments: Integers, sizes: Integers) -> NDArray[np.float64]:
        """float64 (m, 6): the cycles that end in these environments with these steps of the ladder, by `CYCLE`."""
        outcomes, at, depths = self.outcomes, self.at[environments], self.depths[environments]
        decisions = at, depths, sizes
        tokens, seconds = outcomes.gains[decisions], self.seconds[decisions]
        self.at[environments] = at + tokens
        self.episodes[environments, 2:] += np.stack([tokens, seconds, np.ones(len(at))], axis=1)
        lengths, chosen = outcomes.lengths[at], np.asarray(outcomes.sizes)[sizes]
        return np.stack([self.reward(tokens, seconds), tokens, seconds, depths, chosen, lengths], axis=1)

    @torch.inference_mode()
    def observe(self) -> Floats:
        """float32 (n, width): what the policies see now; no generation may have ended without `begin`."""
        seen: Floats = self.observer.at(self.at, self.depths).numpy()
        return seen

    def episode(self, environment: int) -> dict[str, float]:
        """The present episode by `EPISODE`: r and l as SB3's monitor, tokens, seconds, and cycles."""
        return dict(zip(EPISODE, self.episodes[environment].tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, the reward's state included; arrays and values for JSON."""
        arrays = {name: getattr(self, name).copy() for name in ARRAYS}
        return {**arrays, "generator": self.generator.bit_generator.state, "reward": self.reward.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where a walk of the same arguments was.

        Raises:
            InputError: it was another walk.
        """
        for name in ARRAYS:
            if name != "queue" and state[name].shape != getattr(self, name).shape:
                raise InputError(f"the state is of {len(state[name])} environments; there are {self.count}")
        for name in ARRAYS:
            setattr(self, name, state[name].copy())
        self.generator.bit_generator.state = state["generator"]
        self.reward.load_state_dict(state["reward"])


ARRAYS = ("queue", "at", "limits", "depths", "episodes")


def check_walk(outcomes: Outcomes, role: Role, partner: PartnerDecisions, count: int) -> None:
    """Raises InputError if there is nothing to walk or to decide, or the partner does not fit."""
    if outcomes.positions == 0:
        raise InputError("there is no cycle in these outcomes; record longer answers")
    if count < 1:
        raise InputError(f"there cannot be {count} environments; at least 1 is needed")
    if outcomes.depth < 1 and (role == "depth" or isinstance(partner, str)):
        raise InputError("there is no depth to choose in these outcomes; they need a depth of at least 1")
    if isinstance(partner, str):
        if role == "depth" or partner != "random":
            raise InputError(f"the {role} policy cannot have the partner {partner!r}; give a table of decisions")
        return
    stages = outcomes.depth + 1 - outcomes.least_depth
    shape = (outcomes.positions, stages) if role == "depth" else (outcomes.positions,)
    least, most = (0, len(outcomes.sizes) - 1) if role == "depth" else (outcomes.least_depth, outcomes.depth)
    if partner.shape != shape or partner.dtype.kind not in "iu":
        raise InputError(f"the partner is a table of {partner.dtype} {partner.shape}; it must be int64 {shape}")
    if partner.min() < least or partner.max() > most:
        raise InputError(f"the partner decides {partner.min()} … {partner.max()}; it must stay within {least} … {most}")
