"""Networks that read costs: the tables of recorded answers on any machine, and the exact trainer on many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_machines import COST_FEATURES, Machine
from ltd.common.arrays import Floats, Integers
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.lookup import TEXT_FEATURES, TextScores
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.limits import EVERY_SIZE, summary_for
from ltd_rl.traces.observations import decided
from ltd_rl.traces.outcomes import Outcomes, cycle_seconds, outcomes_of, plain_total, reading_after
from ltd_rl.traces.text import candidate_counts, propose_everywhere
from ltd_rl.trainers.exact import ExactConfig, ExactTrainer

LADDER = tuple(size for size in EVERY_SIZE if size <= 60)
RATES_EVERY = 10  # epochs after which the throughput of every machine is found anew


# --- tables ---


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Some generations with the whole ladder and depths on any machine.

    Attributes:
        outcomes: on one machine. verified: int64 (P, D + 2, S), candidates that each decision verifies.
    """

    outcomes: Outcomes
    verified: Integers

    @classmethod
    def of(cls, generations: Sequence[RecordedGeneration], machine: Machine, text: TextScores) -> Ground:
        """Looks the text up, which takes a while."""
        depth = generations[0].depth
        outcomes = outcomes_of(generations, machine, LADDER, depth, text, LOOKED_UP)
        there = [candidate_counts(each, propose_everywhere(each, text, LOOKED_UP)) for each in generations]
        stages = [*range(depth + 1), NOT_ASKED]
        return cls(outcomes, np.minimum(np.array(LADDER), np.concatenate(there)[:, stages, None]))

    def on(self, machine: Machine) -> Outcomes:
        """The tables on another machine."""
        known = self.outcomes
        seconds = cycle_seconds(machine, known.lengths, known.gains, self.verified)
        return replace(
            known,
            seconds=(seconds + machine.lookup(known.lengths)[:, None, None]).astype(np.float32),
            plain_seconds=machine.plain(known.lengths).astype(np.float32),
            begin=machine.begin,
        )


def within(outcomes: Outcomes, sizes: Sequence[int], depth: int) -> Outcomes:
    """The tables of the first sizes of their ladder and the first depths."""
    stages, count = [*range(depth + 1), NOT_ASKED], len(sizes)
    return replace(
        outcomes,
        sizes=tuple(sizes),
        gains=outcomes.gains[:, stages, :count],
        seconds=outcomes.seconds[:, stages, :count],
        scores=outcomes.scores[:, : candidate_count(outcomes.width, depth)],
    )


def with_costs(outcomes: Outcomes, costs: Floats) -> Outcomes:
    """The tables with a machine's costs (P, COST_FEATURES) behind what is seen of the text."""
    return replace(outcomes, text=np.concatenate([outcomes.text, costs], axis=1))


# --- one pair for many machines ---


class CostSummary(Summary):
    """A summary that shows a machine's costs behind the numbers of the text, which `text` counts together."""

    def __post_init__(self) -> None:
        """No check: so many numbers of the text are what a `Summary` refuses."""


class ManyMachines(ExactTrainer):
    """The exact trainer of networks that read costs: in every epoch every position is on another machine.

    Seconds are in tokens of the machine, at the throughput that the networks have there, so λ is 1.

    Args:
        machines: tables of the same positions. costs: float32 (M, P, COST_FEATURES).
    """

    def __init__(self, machines: Sequence[Outcomes], costs: Floats, config: ExactConfig) -> None:
        self.machines, self.costs = machines, costs
        self.seconds = np.stack([machine.seconds for machine in machines])
        self.readings = np.stack([reading_after(machine) for machine in machines])
        self.rates = np.array([plain_total(machine).throughput for machine in machines], dtype=np.float32)
        self.dealer = np.random.default_rng(config.seed)
        pool = replace(with_costs(machines[0], costs[0]), seconds=self.seconds[0].copy())
        bare = summary_for(pool.sizes, TEXT_FEATURES)
        layout = CostSummary(bare.best, bare.newest, text=TEXT_FEATURES + COST_FEATURES)
        self.deal(pool)
        super().__init__(pool, (layout, layout), config)
        self.rate = 1.0

    def deal(self, pool: Outcomes) -> None:
        """Draws a machine for every position of the pool, and writes what it costs there into its tables."""
        rows, self.dealt = np.arange(pool.positions), self.dealer.integers(len(self.machines), size=pool.positions)
        pool.seconds[:] = self.seconds[self.dealt, rows] * self.rates[self.dealt][:, None, None]
        pool.text[:, TEXT_FEATURES:] = self.costs[self.dealt, rows]

    def train(self, made_for: Setting) -> Learned:
        """The networks after all epochs; there is none to choose, as the learning rate ends at 0."""
        for epoch in range(self.config.epochs):
            self.epoch()
            if epoch == 0 or (epoch + 1) % RATES_EVERY == 0:
                self.find_rates(self.policy(made_for))
        return self.policy(made_for)

    def epoch(self) -> None:
        """One pass over all positions, on the machines that are drawn for them."""
        self.deal(self.outcomes)
        super().epoch()

    @property
    def reading(self) -> Floats:  # type: ignore[override]
        """float32 (P, S): see `reading_after`, on the drawn machines and in their tokens."""
        return self.readings[self.dealt, np.arange(len(self.dealt))] * self.rates[self.dealt][:, None]

    def find_rates(self, policy: Learned) -> None:
        """The throughput of the present networks on every machine."""
        for number, machine in enumerate(self.machines):
            self.outcomes.text[:, TEXT_FEATURES:] = self.costs[number]
            self.rates[number] = decided(policy, machine, self.observers).throughput
