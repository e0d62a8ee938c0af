"""Fits the controller of `ltd.policies.controller` to traces, and decides with it at many positions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.latency.interpolation import pool
from ltd.latency.model import LatencyModel
from ltd.policies.controller import BINS, BINS_PER_NAT, FEATURES, ExpectedGain, bins_of, features, ranked
from ltd.tree import candidate_count
from ltd_rl.traces.format import RecordedGeneration, level_starts
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, Total, plain_total, total, verified_sizes

PRIOR = 10.0  # so many candidates of every bin are as likely as the draft says, besides those that are seen
ROUNDS = 4  # of Dinkelbach's method; the rate settles in two or three
RIDGE = 1e-3  # relative to the number of positions: keeps the prediction tame where features hardly differ
TYPICAL_GAIN = 2  # whose reading is in the costs; it hardly matters how many
FAR = 16  # times the longest measured context, up to which costs go on linearly


@dataclass(frozen=True, slots=True, eq=False)
class Beliefs:
    """What a controller expects at the positions of some outcomes, whatever a second is worth.

    Attributes:
        expected: float64 (P, D + 1, S), gains. costs: float64 (P, D + 1, S), seconds.
        masses, tops: float64 (P, D + 1), sum and best of the newest level's chances.
    """

    expected: Doubles
    costs: Doubles
    masses: Doubles
    tops: Doubles


def fit(
    generations: Sequence[RecordedGeneration], outcomes: Outcomes, latency: LatencyModel
) -> tuple[ExpectedGain, Total]:
    """The controller for traces and a machine, and what it comes to on them.

    Of the two ways to weigh gain and cost, the one with the higher throughput on these traces.

    Args:
        generations: the traces. outcomes: of the same generations, which gives the depth and the sizes.
    """
    path = np.concatenate([generation.path for generation in generations if generation.positions])
    start = untrained(outcomes, calibrate(outcomes.scores, path[:, : outcomes.depth + 1], outcomes.width), latency)
    start = replace(start, trust=fit_trust(believe(start, outcomes), outcomes))
    beliefs = believe(start, outcomes)
    fitted = [fit_rate(start, beliefs, outcomes), fit_ahead(replace(start, rate=None), beliefs, outcomes)]
    results = [(total(outcomes, *choose(controller, beliefs)), controller) for controller in fitted]
    found, best = max(results, key=lambda result: result[0].throughput)
    plain = plain_total(outcomes)
    if plain.throughput > found.throughput:
        return replace(best, drafts=False), plain
    return best, found


def calibrate(scores: Floats, path: NDArray[np.int16], width: int) -> Doubles:
    """float64 (D + 1, BINS): how often candidates of a level and a bin were on the path, never less for a better score.

    Args:
        scores: float32 (P, C). path: int16 (P, D + 1), the candidate of each level, -1 = none.
    """
    own = np.exp(-(np.arange(BINS) + 0.5) / BINS_PER_NAT)  # the draft's probability in the middle of a bin
    tables = []
    for level, first in enumerate(level_starts(width, path.shape[1] - 1)):
        until = candidate_count(width, level)
        seen = np.bincount(bins_of(scores[:, first:until]).ravel(), minlength=BINS)
        there = np.flatnonzero(path[:, level] >= 0)
        hits = np.bincount(bins_of(scores[there, path[there, level]]), minlength=BINS)
        weights = (seen + PRIOR).astype(np.float64)
        tables.append(pool(((hits + PRIOR * own) / weights)[::-1], weights[::-1])[::-1])
    return np.stack(tables)


def untrained(outcomes: Outcomes, chances: Doubles, latency: LatencyModel) -> ExpectedGain:
    """A controller with its costs, for the rate of the best fixed decision; it never goes on."""
    parts = ("begin", "expand", "verify", "other")
    knots = np.unique(np.concatenate([latency.parts[name].lengths for name in parts]))
    knots = np.append(knots, FAR * knots[-1])
    depths = np.arange(outcomes.depth + 1)
    verified = verified_sizes(outcomes.width, outcomes.depth, np.array(outcomes.sizes))
    costs = latency.cycle(depths[:, None, None], verified[:, :, None], knots, TYPICAL_GAIN)
    rate = best_static(outcomes)[2].throughput
    ahead = np.zeros((outcomes.depth, FEATURES))
    trust = np.ones((2, len(depths), len(outcomes.sizes)))
    return ExpectedGain(outcomes.width, outcomes.sizes, chances, trust, knots, costs, ahead, rate)


def believe(controller: ExpectedGain, outcomes: Outcomes) -> Beliefs:
    """What its tables say at every position."""
    width, levels = outcomes.width, range(controller.max_depth + 1)
    starts = level_starts(width, controller.max_depth)
    best_scores, best = outcomes.scores[:, :0], np.zeros((outcomes.positions, 0))
    expected, masses, tops = [], [], []
    for level in levels:
        scores = outcomes.scores[:, starts[level] : candidate_count(width, level)]
        chances = controller.chances[level][bins_of(scores)]
        together = np.concatenate([best_scores, scores], axis=1), np.concatenate([best, chances], axis=1)
        best_scores, best = ranked(*together, controller.max_size)
        expected.append(controller.expected(best, level))
        masses.append(chances.sum(axis=1))
        tops.append(chances.max(axis=1))
    costs = [controller.cost(outcomes.lengths, level) for level in levels]
    return Beliefs(*(np.stack(parts, axis=1) for parts in (expected, costs, masses, tops)))


def fit_trust(beliefs: Beliefs, outcomes: Outcomes) -> Doubles:
    """float64 (2, D + 1, S): the line from the sums of the chances, which are expected - 1, to the gains."""
    sums, gains = beliefs.expected - 1.0, outcomes.gains[:, :-1]  # it always asks the head
    centred = sums - sums.mean(axis=0)
    slopes = (centred * gains).sum(axis=0) / ((centred * centred).sum(axis=0) + RIDGE * len(sums))
    return np.stack([gains.mean(axis=0) - slopes * sums.mean(axis=0), slopes])


def fit_rate(controller: ExpectedGain, beliefs: Beliefs, outcomes: Outcomes) -> ExpectedGain:
    """The controller whose rate is the throughput that it reaches itself (Dinkelbach's method)."""
    for _ in range(ROUNDS):
        controller = fit_ahead(controller, beliefs, outcomes)
        reached = total(outcomes, *choose(controller, beliefs)).throughput
        controller = replace(controller, rate=reached)
    return fit_ahead(controller, beliefs, outcomes)


def fit_ahead(controller: ExpectedGain, beliefs: Beliefs, outcomes: Outcomes) -> ExpectedGain:
    """The controller with its prediction of going on, fitted from the deepest level backwards.

    The worth of going on at a depth is regressed on what is seen there. It is the worth that the decisions below turned
    out to have, not the expected one, so that errors of the chances do not pile up. (Longstaff and Schwartz's method
    for optimal stopping.)
    """
    rows, depth = np.arange(outcomes.positions), outcomes.depth
    ahead, later = np.zeros((depth, FEATURES)), np.zeros(outcomes.positions)
    for level in range(depth, -1, -1):
        worth, seen = judge(controller, beliefs, level)
        step = worth.argmax(axis=1)
        gained, seconds = outcomes.gains[rows, level, step], outcomes.seconds[rows, level, step].astype(np.float64)
        now = controller.worth(gained, seconds)
        if level < depth:
            ahead[level] = ridge(seen, later)
            goes_on = (seen * ahead[level]).sum(axis=1) > worth.max(axis=1)
            now = np.where(goes_on, later, now)
        later = now
    return replace(controller, ahead=ahead)


def ridge(inputs: Doubles, wanted: Doubles) -> Doubles:
    """(n, f), (n,) → (f,): least squares, with a small weight on small coefficients of the standardised inputs.

    The first input is constant and carries none.
    """
    mean, spread = inputs[:, 1:].mean(axis=0), inputs[:, 1:].std(axis=0) + 1e-9
    normal = (inputs[:, 1:] - mean) / spread
    matrix = normal.T @ normal + RIDGE * len(inputs) * np.eye(normal.shape[1])
    slopes = np.linalg.solve(matrix, normal.T @ (wanted - wanted.mean())) / spread
    return np.concatenate([[wanted.mean() - mean @ slopes], slopes])


def judge(controller: ExpectedGain, beliefs: Beliefs, depth: int) -> tuple[Doubles, Doubles]:
    """`ExpectedGain.judge` at all positions, from the beliefs."""
    worth = controller.worth(beliefs.expected[:, depth], beliefs.costs[:, depth])
    return worth, features(worth.max(axis=1), beliefs.masses[:, depth], beliefs.tops[:, depth])


def choose(controller: ExpectedGain, beliefs: Beliefs) -> tuple[Integers, Integers]:
    """int64 (P,) each: the depth and the step of the ladder that the controller decides on at every position."""
    count, limit = len(beliefs.masses), controller.max_depth
    depths, steps = np.full(count, limit), np.zeros(count, dtype=np.int64)
    going = np.ones(count, dtype=bool)
    for depth in range(limit + 1):
        worth, seen = judge(controller, beliefs, depth)
        stops = going.copy()
        if depth < limit:
            stops &= ~(controller.going_on(seen, depth) > worth.max(axis=1))
        depths[stops], steps[stops] = depth, worth.argmax(axis=1)[stops]
        going &= ~stops
    return depths, steps


def decide_everywhere(controller: ExpectedGain, outcomes: Outcomes) -> tuple[Integers, Integers]:
    """`choose` at the positions of some outcomes, if the controller drafts at all.

    Raises:
        InputError: outcomes of another width, or not as deep as the controller may draft.
    """
    if (outcomes.width, max(outcomes.depth, controller.max_depth)) != (controller.width, outcomes.depth):
        raise InputError(
            f"the controller is for beam width {controller.width} and depth {controller.max_depth}; these traces have "
            f"width {outcomes.width} and depth {outcomes.depth}"
        )
    return choose(controller, believe(controller, outcomes))
