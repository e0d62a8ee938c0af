"""Ways to decide, and what they may see of recorded generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ltd.common.arrays import Floats, Integers
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Both, Learned, Lookup
from ltd.policies.controller import ExpectedGain
from ltd.policies.cost_aware import CostAware
from ltd.tree import NOT_ASKED
from ltd_rl.analysis.choices import BOTH, EAGLE3, LOOKUP, OPTIMUM, SIZES, STATIC, FixedChoices
from ltd_rl.baselines.both_search import rule_decisions
from ltd_rl.baselines.controller_fit import decide_everywhere
from ltd_rl.baselines.rules import weighed_everywhere
from ltd_rl.traces.format import RecordedGeneration, Traces
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.optimum import DraftSchedule, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from ltd_rl.traces.replay import Cycles, cycles_of, stages_of
from ltd_rl.traces.text import Ranks, TextProposals, propose_everywhere


@dataclass(frozen=True)
class TaskGround:
    """What ways to decide with the same view of the text may see of some generations that all have positions.

    Args:
        generations: the traces. latency: the machine's.
        text: how likely looked-up tokens are; None where nothing is looked up. most: candidates of the text.
    """

    generations: Sequence[RecordedGeneration]
    latency: LatencyModel
    text: TextScores | None
    most: int

    @cached_property
    def outcomes(self) -> Outcomes:
        """With all sizes."""
        sizes = SIZES if self.text is None else EVERY_SIZE
        return outcomes_of(self.generations, self.latency, sizes, text=self.text, most=self.most or LOOKED_UP)

    @cached_property
    def proposals(self) -> list[TextProposals | None]:
        """What the text proposes in each generation."""
        text = self.text
        return [None if text is None else propose_everywhere(each, text, self.most) for each in self.generations]

    @cached_property
    def chances(self) -> Floats:
        """float32 (P, T), of the text's candidates."""
        return np.concatenate([proposed.chances for proposed in self.proposals if proposed is not None])

    @cached_property
    def stages(self) -> list[tuple[Ranks, Integers]]:
        """Of each generation, see `ltd_rl.traces.replay.stages_of`."""
        return [stages_of(*both) for both in zip(self.generations, self.proposals, strict=True)]

    def cycles(self, depths: Integers, sizes: Integers) -> list[Cycles]:
        """Of every generation, if its positions decide so, int64 (P,) each; depth `NOT_ASKED` does not ask the head."""
        ends = np.cumsum([generation.positions for generation in self.generations])[:-1]
        parts = zip(self.stages, np.split(depths, ends), np.split(sizes, ends), strict=True)
        return [cycles_of(stages, depth, size) for stages, depth, size in parts]


Decide = Callable[[TaskGround], tuple[Integers, Integers]]
"""Depths and sizes at all positions, int64 (P,) each."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to decide.

    Attributes:
        decide: what it decides. text, most: which text it looks at, as in `TaskGround`; none if not given.
    """

    decide: Decide
    text: TextScores | None = None
    most: int = 0


def ways_to_decide(
    traces: Traces,
    choices: FixedChoices,
    controller: ExpectedGain | None,
    bundles: dict[str, Learned],
    text: TextScores | None,
    rules: dict[str, CostAware] | None = None,
    bounds: dict[str, Way] | None = None,
) -> dict[str, Way]:
    """All that are compared, by name; `text` as for `choose_fixed`. `bounds` come before those that know the future."""
    ways = {"plain": Way(fixed(NOT_ASKED, 0))}
    if traces.depth >= EAGLE3[0]:
        ways["EAGLE-3"] = Way(fixed(*EAGLE3))
    if choices.static is not None:
        ways[STATIC] = Way(fixed(*choices.static))
    for name, rule in ((LOOKUP, choices.lookup), (BOTH, choices.both)):
        if rule is not None:
            ways[name] = Way(ruled(rule), text, rule.max_text)
    if controller is not None:
        ways["controller"] = Way(controlled(controller), controller.text_scores, controller.max_text)
    for name, weighing in (rules or {}).items():
        ways[name] = Way(weighed(weighing))
    for name, policy in bundles.items():
        seen = policy.text_scores or text if policy.max_text else None
        ways[name] = Way(learned(policy), seen, policy.max_text)
    most = 0 if text is None else LOOKED_UP
    ways |= bounds or {}
    return ways | {
        name: Way(by_schedule(find), text, most) for name, find in (("hindsight", hindsight), (OPTIMUM, optimum))
    }


def fixed(depth: int, size: int) -> Decide:
    """The same in every cycle."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        count = sum(generation.positions for generation in ground.generations)
        return np.full(count, depth), np.full(count, size)

    return decide


def ruled(rule: Lookup | Both) -> Decide:
    """As a rule that looks tokens up."""
    return lambda ground: rule_decisions(rule, ground.chances)


def controlled(controller: ExpectedGain) -> Decide:
    """As the controller decides."""
    if not controller.drafts:
        return fixed(NOT_ASKED, 0)

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        depths, steps = decide_everywhere(controller, ground.outcomes, ground.generations)
        return depths, np.array(controller.sizes)[steps]

    return decide


def learned(policy: Learned) -> Decide:
    """As learned policies decide, everywhere at once: what they see does not depend on the cycles before."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        depths = stops(policy, ground.outcomes)
        return depths, np.array(policy.sizes)[chosen_steps(policy, ground.outcomes, depths)]

    return decide


def weighed(rule: CostAware) -> Decide:
    """As a rule decides that weighs chances against costs."""
    return lambda ground: weighed_everywhere(rule, ground.outcomes)


def decided_before(generations: Sequence[RecordedGeneration], depths: Integers, sizes: Integers) -> Decide:
    """As it was decided for all positions of some generations, int64 (P,) each, which the grounds have a part of."""
    cuts = np.cumsum([generation.positions for generation in generations])[:-1]
    parts = zip(generations, np.split(depths, cuts), np.split(sizes, cuts), strict=True)
    known = {id(generation): (depth, size) for generation, depth, size in parts}

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        depth, size = zip(*(known[id(generation)] for generation in ground.generations), strict=True)
        return np.concatenate(depth), np.concatenate(size)

    return decide


def by_schedule(find: Callable[[Outcomes], DraftSchedule]) -> Decide:
    """As a schedule for the whole ladder says."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        schedule = find(ground.outcomes)
        return schedule.depths, np.array(ground.outcomes.sizes)[schedule.steps]

    return decide
