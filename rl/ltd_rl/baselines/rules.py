"""The free numbers of the published rules, searched by replay: `ltd train-baseline rules`.

Every rule that steers a tree gets the care that the learned policies get from `ltd tune`: its threshold, depth and size
are those with the most tokens per second on four fifths of the traces, at this machine's measured costs; the last fifth
says what they are worth. What a rule sees is recorded once (`ltd_rl.baselines.signals`), and then any setting takes
milliseconds. Rules that weigh chances against costs see scores alone, which the traces hold. Not searched are the rules
for chains: traces are of trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.policies import DDD, SVIP, GammaTune, Policy, Smart, Static
from ltd.policies.baselines.c2t import C2T
from ltd.policies.baselines.classifier import c2t_features
from ltd.policies.baselines.disco import Disco
from ltd.policies.baselines.specdecpp import TreeSpecDecPP
from ltd.policies.cost_aware import CostAware
from ltd.policies.tree_signals import levels_of
from ltd.tree import MAX_DEPTH, DraftTree, candidate_count
from ltd_rl.baselines.signals import Signals, depths_of
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, Total, total, visited
from ltd_rl.traces.replay import gains

QUANTILES = np.linspace(0.02, 0.98, 17)  # of what a rule sees: the thresholds that are tried
CHANCES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # C2T's
RATES = (0.05, 0.1, 0.2, 0.4, 0.8)  # GammaTune's
DISCOUNTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # SMART's
CHUNK = 2048  # positions whose candidates are looked at at a time


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Traces to search or to judge on.

    Attributes:
        generations: those with a position.
        latency: the machine's.
        outcomes: of the generations; its ladder has the sizes, its depth is the deepest that is tried.
        signals: what rules see, by name: of those that stop by a signal, float32 (P, D); of C2T, `chances_of`.
    """

    generations: Sequence[RecordedGeneration]
    latency: LatencyModel
    outcomes: Outcomes
    signals: Signals


@dataclass(frozen=True, slots=True, eq=False)
class FoundRule:
    """The best setting of a rule.

    Attributes:
        policy: as it is used.
        options: its free numbers, by the names that a user types.
        tried: how many settings were.
        training, held_out: what it comes to.
    """

    policy: Policy
    options: dict[str, Any]
    tried: int
    training: Total
    held_out: Total


def search(rule: Policy, name: str, training: Ground, held_out: Ground) -> FoundRule:
    """The setting with the most tokens per second on the training generations; of equals, the first.

    Args:
        rule: with its published numbers. name: as a user types it.
    """
    tried, best, found = 0, {}, None
    for options in settings_of(rule, name, training):
        reached = replayed(replace(rule, **options), name, training)  # type: ignore[type-var]
        tried += 1
        if found is None or reached.throughput > found.throughput:
            best, found = options, reached
    assert found is not None, "every rule has a setting"
    chosen: Policy = replace(rule, **best)  # type: ignore[type-var]
    return FoundRule(chosen, best, tried, found, replayed(chosen, name, held_out))


def settings_of(rule: Policy, name: str, ground: Ground) -> Iterator[dict[str, Any]]:
    """The settings that are tried, as options."""
    depths, sizes = range(1, ground.outcomes.depth + 1), ground.outcomes.sizes
    if isinstance(rule, Static):
        depth, step, _ = best_static(ground.outcomes)
        yield {"depth": depth, "size": sizes[step]}
        return
    for thresholds in thresholds_of(rule, ground.signals.get(name)):
        for depth in depths:
            shape = {"depth": depth} if isinstance(rule, GammaTune) else {"max_depth": depth}
            if not isinstance(rule, GammaTune) or replace(rule, depth=depth).max_depth in depths:
                yield from ({**thresholds, **shape, "size": size} for size in sizes)


def thresholds_of(rule: Policy, signals: Floats | None) -> list[dict[str, Any]]:
    """The numbers that a rule compares with, as options: quantiles of what it sees, and the published ones."""
    if isinstance(rule, GammaTune):
        return [{"rate": rate} for rate in RATES]
    if isinstance(rule, C2T):
        return [{"threshold": chance} for chance in CHANCES]
    if isinstance(rule, CostAware):
        return [{"discount": discount} for discount in DISCOUNTS] if isinstance(rule, Smart) else [{}]
    assert signals is not None, "the others stop by a signal"
    seen = np.quantile(signals.astype(np.float64), QUANTILES)
    if isinstance(rule, SVIP):
        bounds = rounded([*np.maximum(1 - np.sqrt(rule.factor * seen), 0.0), rule.bound])
        return [{"bound": bound} for bound in bounds]
    if isinstance(rule, DDD):
        every = tuple(range(1, MAX_DEPTH + 1))
        looks = (rule.levels, every, every[::2], every[1::2])
        return [{"floor": floor, "levels": levels} for levels in looks for floor in rounded([*seen, rule.floor])]
    assert isinstance(rule, Disco | TreeSpecDecPP), "there is no other"
    return [{"threshold": chance} for chance in rounded([*seen, rule.threshold])]


def rounded(values: Sequence[float]) -> list[float]:
    """Ascending, with four digits, each once."""
    return sorted({round(float(value), 4) for value in values})


def replayed(rule: Policy, name: str, ground: Ground) -> Total:
    """What a rule comes to, by replay; the time that it takes to decide is not counted."""
    outcomes = ground.outcomes
    if isinstance(rule, C2T):
        return sized(rule, ground.signals[name], ground)
    if isinstance(rule, CostAware):
        return spent(ground, *weighed_everywhere(rule, outcomes))
    assert isinstance(rule, Static | GammaTune | SVIP | DDD | Disco | TreeSpecDecPP)
    step = outcomes.sizes.index(rule.size)
    if isinstance(rule, Static):
        return total(outcomes, rule.depth, step)
    if isinstance(rule, GammaTune):
        return followed(rule, step, outcomes)
    return total(outcomes, depths_of(rule, ground.signals[name]), step)


def followed(rule: GammaTune, step: int, outcomes: Outcomes) -> Total:
    """GammaTune cycle by cycle, as its depth depends on the cycles before."""
    tree = DraftTree(1, 1, 0, 0, torch.device("cpu"))  # it looks at none
    table, costs = outcomes.gains[:, :, step].tolist(), outcomes.seconds[:, :, step].tolist()
    seconds, cycles = 0.0, 0
    for first, end in zip(outcomes.starts[:-1].tolist(), outcomes.starts[1:].tolist(), strict=True):
        call, position, gain = rule.start(1), first, 1
        while position < end:
            call.speculate(tree.lengths, [gain])
            depth = call.depth
            call.choose_size(tree, depth)
            gain, cost = table[position][depth], costs[position][depth]
            position, seconds, cycles = position + gain, seconds + cost, cycles + 1
    return Total(outcomes.tokens, seconds, cycles)


def sized(rule: C2T, chances: Floats, ground: Ground) -> Total:
    """C2T, whose size is of no ladder; chances as `chances_of` gives them."""
    outcomes, depth = ground.outcomes, rule.max_depth
    most = candidate_count(outcomes.width, depth)
    sizes = np.clip((chances[:, :most] > rule.threshold).sum(axis=1), 1, rule.size)
    return spent(ground, np.full(len(sizes), depth), sizes)


def weighed_everywhere(rule: CostAware, outcomes: Outcomes) -> tuple[Integers, Integers]:
    """int64 (P,) each: the depths and sizes that a rule decides on at all positions.

    Raises:
        InputError: it may draft deeper than the outcomes know.
    """
    if rule.max_depth > outcomes.depth:
        raise InputError(f"the rule drafts to depth {rule.max_depth}, and these traces know {outcomes.depth} at most")
    blocks = [slice(first, first + CHUNK) for first in range(0, outcomes.positions, CHUNK)]
    found = [rule.decisions(outcomes.scores[block], outcomes.lengths[block], outcomes.width) for block in blocks]
    depths, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return depths, sizes


def spent(ground: Ground, depths: Integers, sizes: Integers) -> Total:
    """What deciding so at every position, int64 (P,) each, comes to; the sizes may be of no ladder."""
    outcomes, cuts = ground.outcomes, ground.outcomes.starts[1:-1]
    parts = zip(ground.generations, np.split(depths, cuts), np.split(sizes, cuts), strict=True)
    gained = np.concatenate([gains(generation, depth, size) for generation, depth, size in parts])
    seen = visited(gained, outcomes.starts)
    verified = np.minimum(sizes, outcomes.width * (1 + depths * outcomes.width))[seen]
    seconds = ground.latency.cycle(depths[seen], verified, outcomes.lengths[seen], gained[seen]).sum()
    return Total(outcomes.tokens, float(seconds), int(seen.sum()))


def chances_of(rule: C2T, outcomes: Outcomes) -> Floats:
    """float32 (P, C): the chance of every candidate, as C2T's network says."""
    levels = levels_of(
        (0, *(candidate_count(outcomes.width, depth) for depth in range(outcomes.depth + 1))), torch.device("cpu")
    )
    found: list[Floats] = []
    for first in range(0, outcomes.positions, CHUNK):
        joint = torch.from_numpy(outcomes.scores[first : first + CHUNK]).exp()
        found.append(rule.network.chance(c2t_features(joint, levels.expand_as(joint))).numpy())
    return np.concatenate(found)
