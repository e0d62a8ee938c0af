"""The exact trainer: the expected reward of both policies together, summed over all that they could decide.

At a recorded position every decision's gain and cost are known. With c_l the probability that the depth policy goes on
at level l, and s_d(V) that of size V after d expansions, a cycle there stops at depth d and verifies V with probability

    P(d, V) = c_0 · … · c_(d-1) · (1 - c_d) · s_d(V),          with c_D = 0 at the limit,

so the expected reward Σ P(d, V) · r(d, V) and its gradient need no sampling: there is no noise from actions, and both
policies learn at once instead of in turns. Where the policies see what the text proposes, the first level is -1, before
the head is asked at all. The rewards are those of `ltd_rl.environments.rewards`:

    ratio    r = gain / (λ · seconds)
    renewal  r = gain - λ · seconds

with λ the throughput of the policies themselves, found anew after every epoch. What a cycle gains without the head is
read later, if the head is asked again; here that counts in the cycle, as if the head were asked right after.

Positions count alike, whether the present policies would begin a cycle there or not. Weighting them by the exact
probability of a visit, and crediting a cycle with the value of the position it leads to, was tried and won nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ltd.common.argument_types import as_wholes
from ltd.common.arrays import Floats
from ltd.common.number_ranges import check_between, check_least, check_positive
from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.tree import NOT_ASKED
from ltd_rl.environments.rewards import REWARDS, check_reward
from ltd_rl.traces.observations import decided, first_asked, looks_up, observers_of
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, reading_after
from ltd_rl.trainers.standardised import Standardised
from ltd_rl.trainers.warm_start import nearest, taken_over

WARM_UP_STEPS = 50


@dataclass(frozen=True, slots=True)
class ExactConfig:
    """How to train.

    Args:
        reward: by name, one that the exact trainer knows, see `ltd_rl.environments.rewards`.
        hidden: widths of the hidden layers of both networks.
        epochs: times that every position is seen.
        batch: positions per update.
        learning_rate: the highest, after a short warm-up; it falls to 0 in a line.
        weight_decay: of AdamW.
        entropy: weight of the entropy of the decisions, which falls to 0 with the learning rate; without it, ratio can
            get stuck in never drafting deeper.
        seed: of weights and order.

    Raises:
        InputError: a number out of range, or another reward.
    """

    reward: str = "renewal"
    hidden: tuple[int, ...] = (48,)
    epochs: int = 12
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    entropy: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_reward(self.reward, "exact")
        if min(as_wholes(self.hidden, "hidden"), default=1) < 1:
            raise InputError(f"hidden is {list(self.hidden)}; it must be widths of at least 1")
        check_least(self, epochs=1, batch=1)
        check_positive(self, "learning_rate")
        check_between(self, weight_decay=(0, 1e6), entropy=(0, 1e6))

    def to_dict(self) -> dict[str, Any]:
        """As values for JSON."""
        return {**asdict(self), "hidden": list(self.hidden)}


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the policies come to after an epoch, deciding greedily: tokens per second."""

    training: float
    validation: float


@dataclass(frozen=True, slots=True, eq=False)
class ExactResult:
    """The policies of the best validation, and the course of training."""

    policy: Learned
    epochs: list[Epoch]


def train_exact(
    training: Outcomes,
    validation: Outcomes,
    layouts: tuple[Layout | Summary, Layout | Summary],
    config: ExactConfig,
    made_for: Setting,
    progress: Callable[[Epoch], None] = lambda epoch: None,
    start: Learned | None = None,
) -> ExactResult:
    """Trains both policies; the ladder and the depth limit are those of the outcomes.

    Args:
        training, validation: of different questions, with the same ladder and depths.
        layouts: what the depth and the size policy see; of the context length, what `training` has.
        config: how.
        made_for: goes into the policy.
        progress: told after every epoch.
        start: whose networks to begin with, see `ltd_rl.trainers.warm_start`; None is random weights.

    Raises:
        InputError: outcomes of different ladders, depths or numbers of text candidates, or layouts that show something
            else than these have.
    """
    if (training.sizes, training.depth) != (validation.sizes, validation.depth):
        raise InputError("training and validation need the same ladder of sizes and the same depth")
    if training.max_text != validation.max_text:
        raise InputError("training and validation need the same number of text candidates")
    trainer = ExactTrainer(training, layouts, config)
    if start is not None:
        trainer.begin_with(start)
    held_out = observers_of(validation, *trainer.layouts)
    best: tuple[float, Learned] | None = None
    epochs: list[Epoch] = []
    for _ in range(config.epochs):
        trainer.epoch()
        policy = trainer.policy(made_for)
        trainer.rate = decided(policy, training, trainer.observers).throughput
        epochs.append(Epoch(trainer.rate, decided(policy, validation, held_out).throughput))
        progress(epochs[-1])
        if best is None or epochs[-1].validation > best[0]:
            best = epochs[-1].validation, policy
    assert best is not None
    return ExactResult(best[1], epochs)


class ExactTrainer:
    """The networks in training.

    Args:
        outcomes: to train on. layouts, config: as for `train_exact`.

    Attributes:
        layouts: these, with the range of the outcomes' context lengths.
        rate: λ, tokens per second; it begins at the best static setting's.
    """

    def __init__(
        self, outcomes: Outcomes, layouts: tuple[Layout | Summary, Layout | Summary], config: ExactConfig
    ) -> None:
        self.outcomes, self.config = outcomes, config
        depth, size = (replace(layout, length_range=outcomes.length_range) for layout in layouts)
        self.layouts: tuple[Layout | Summary, Layout | Summary] = depth, size
        self.reads_text = check_text(outcomes, self.layouts)
        self.rate = best_static(outcomes)[2].throughput
        self.order = np.random.default_rng(config.seed)
        self.step, self.steps = 0, config.epochs * self.batches
        self.observers = observers_of(outcomes, *self.layouts)
        outputs = (2, len(outcomes.sizes))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(config.seed)
            self.networks = tuple(
                Standardised(observer, count, config.hidden)
                for observer, count in zip(self.observers, outputs, strict=True)
            )
        parameters = [parameter for network in self.networks for parameter in network.layers.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)

    @property
    def batches(self) -> int:
        """Updates per epoch."""
        return max(1, self.outcomes.positions // self.config.batch)

    def begin_with(self, policy: Learned) -> None:
        """Takes over a policy's networks; raises InputError if they read what these do not, or have other widths."""
        depth, size = self.networks
        if policy.depth_network is not None:
            depth.take(taken_over(policy.depth_network, self.layouts[0]))
        if policy.size_network is not None:
            rows = nearest(policy.sizes, self.outcomes.sizes)
            size.take(taken_over(policy.size_network, self.layouts[1], rows))

    def epoch(self) -> None:
        """One pass over all positions."""
        for rows in self._shuffled():
            rest = 1 - self.step / self.steps
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.learning_rate * rest * min(1.0, (self.step + 1) / WARM_UP_STEPS)
            log_chances = self.log_chances(rows)
            chances = log_chances.exp()
            reward = (chances * self.rewards(rows)).sum((1, 2)).mean()
            entropy = -(chances * log_chances).sum((1, 2)).mean()
            self.optimiser.zero_grad()
            loss = -reward - self.config.entropy * rest * entropy
            loss.backward()
            self.optimiser.step()
            self.step += 1

    def _shuffled(self) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        """The positions in batches of about the same size."""
        return iter(np.array_split(self.order.permutation(self.outcomes.positions), self.batches))

    def log_chances(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """float32 (n, D + 1, S), with stage -1 (n, D + 2, S): log P(d, V) at positions (n,)."""
        depth, size = self.networks
        levels = range(first_asked(self.layouts[0]), self.outcomes.depth + 1)
        going = torch.stack([depth(self.observers[0].at(rows, level)) for level in levels], dim=1)
        stop, go = functional.log_softmax(going, dim=2).unbind(2)  # outputs STOP and CONTINUE, in this order
        stop = torch.cat([stop[:, :-1], torch.zeros_like(stop[:, -1:])], dim=1)  # at the limit nobody is asked
        before = functional.pad(go[:, :-1].cumsum(1), (1, 0))
        sizes = torch.stack([size(self.observers[1].at(rows, level)) for level in levels], dim=1)
        chances = (before + stop)[:, :, None] + functional.log_softmax(sizes, dim=2)
        return chances.roll(-1, dims=1) if self.reads_text else chances  # -1 stands last in tables

    def rewards(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """float32, in tokens and of the shape of `log_chances`: of every decision at positions (n,)."""
        stages = self.outcomes.depth + (2 if self.reads_text else 1)
        gains = torch.from_numpy(self.outcomes.gains[rows, :stages]).float()
        seconds = torch.from_numpy(self.outcomes.seconds[rows, :stages])
        if self.reads_text:
            seconds[:, -1] += torch.from_numpy(self.reading[rows])
        # Times in tokens, so that the weight of the entropy means the same; in a ratio, λ turns no decision.
        return REWARDS[self.config.reward].kind.formula(gains, self.rate * seconds)

    @cached_property
    def reading(self) -> Floats:
        """float32 (P, S): see `reading_after`."""
        return reading_after(self.outcomes)

    def policy(self, made_for: Setting) -> Learned:
        """The present networks as they run at inference."""
        depth, size = (
            Network(layout, network.weights()) for network, layout in zip(self.networks, self.layouts, strict=True)
        )
        outcomes = self.outcomes
        return Learned(
            made_for,
            max(outcomes.depth, 0),
            outcomes.sizes,
            depth_network=None if outcomes.depth < 0 else depth,  # without a draft there is no depth to decide about
            size_network=size,
            **looks_up(outcomes, depth.layout),
        )


def check_text(outcomes: Outcomes, layouts: tuple[Layout | Summary, Layout | Summary]) -> bool:
    """Whether both layouts show what the text proposes. Raises InputError if only one does, or nothing is looked up."""
    shown = {first_asked(layout) == NOT_ASKED for layout in layouts}
    if len(shown) > 1:
        raise InputError("one of the two policies sees what the text proposes; both must, or none")
    if True in shown and not outcomes.max_text:
        raise InputError("the policies see what the text proposes, but nothing was looked up; give tables with text")
    return True in shown
