"""Fits the controller of `ltd.policies.controller` to traces, and decides with it at many positions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.latency.cycle_costs import TYPICAL_GAIN, length_knots
from ltd.latency.interpolation import pool
from ltd.latency.model import LatencyModel
from ltd.lookup import TEXT_FEATURES
from ltd.policies.controller import FEATURES, ExpectedGain, features
from ltd.policies.controller_parts import BINS, BINS_PER_NAT, BOTH, TextTables, bins_of, ranked
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.baselines.text_places import TextPlaces, places_of, tallies
from ltd_rl.traces.format import RecordedGeneration, level_starts
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, Total, plain_total, reading_after, reading_more, total, verified_sizes

PRIOR = 10.0  # so many candidates of every bin are as likely as the draft says, besides those that are seen
ROUNDS = 4  # of Dinkelbach's method; the rate settles in two or three
RIDGE = 1e-3  # relative to the number of positions: keeps the prediction tame where features hardly differ


@dataclass(frozen=True, slots=True, eq=False)
class Beliefs:
    """What a controller expects at the positions of some outcomes, whatever a second is worth.

    The stages are the depths 0 … D, and last, of a controller that knows the text, that the head is not asked.

    Attributes:
        expected: float64 (P, stages, S), gains. costs: float64 (P, stages, S), seconds.
        masses, tops: float64 (P, stages), sum and best of the newest level's chances; 0 where there is none.
        text: float64 (P, TEXT_FEATURES), what is read of the text's candidates; None of a controller of the head alone.
    """

    expected: Doubles
    costs: Doubles
    masses: Doubles
    tops: Doubles
    text: Doubles | None


def fit(
    generations: Sequence[RecordedGeneration], outcomes: Outcomes, latency: LatencyModel
) -> tuple[ExpectedGain, Total]:
    """The controller for traces and a machine, and what it comes to on them.

    Of the two ways to weigh gain and cost, the one with the higher throughput on these traces.

    Args:
        generations: the traces. outcomes: of the same generations, which gives the depth and the sizes; and whether
            the controller is one over both sources.
    """
    kept = [generation for generation in generations if generation.positions]
    path, places = np.concatenate([generation.path for generation in kept]), None
    if outcomes.text_scores is not None:
        places = places_of(kept, outcomes.text_scores, outcomes.max_text)
    chances = calibrate(outcomes.scores, path[:, : outcomes.depth + 1], outcomes.width)
    start = untrained(outcomes, chances, latency, places)
    start = replace(start, trust=fit_trust(believe(start, outcomes, places), outcomes))
    beliefs = believe(start, outcomes, places)
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
    tables = []
    for level, first in enumerate(level_starts(width, path.shape[1] - 1)):
        there = np.flatnonzero(path[:, level] >= 0)
        seen = bins_of(scores[:, first : candidate_count(width, level)])
        tables.append(frequencies(seen, bins_of(scores[there, path[there, level]]), drafted_chances()))
    return np.stack(tables)


def calibrate_text(places: TextPlaces, scores: Floats, depth: int) -> Doubles:
    """float64 (KINDS, BINS): the same of the text's candidates by their kind, see `ltd.policies.controller_parts`.

    Args:
        scores: float32 (P, C), the head's, of levels 0 … `depth`.
    """
    looked_up = 1 - (np.arange(BINS) + 0.5) / BINS
    return np.stack(
        [
            frequencies(seen, hits, drafted_chances() if kind == BOTH else looked_up)
            for kind, (seen, hits) in enumerate(tallies(places, scores, depth))
        ]
    )


def drafted_chances() -> Doubles:
    """float64 (BINS,): the draft's probability in the middle of every bin of scores."""
    return np.exp(-(np.arange(BINS) + 0.5) / BINS_PER_NAT)


def frequencies(seen: Integers, hits: Integers, own: Doubles) -> Doubles:
    """float64 (BINS,): how often candidates were right, never less in a better bin.

    Args:
        seen, hits: the bins of all of them, and of those that were right. own: float64 (BINS,), what is believed of a
            bin in which nothing is seen.
    """
    counts, right = (np.bincount(bins.ravel(), minlength=BINS) for bins in (seen, hits))
    weights = (counts + PRIOR).astype(np.float64)
    return pool(((right + PRIOR * own) / weights)[::-1], weights[::-1])[::-1]


def untrained(
    outcomes: Outcomes, chances: Doubles, latency: LatencyModel, places: TextPlaces | None = None
) -> ExpectedGain:
    """A controller with its costs, for the rate of the best fixed decision; it never goes on.

    Args:
        places: what the text proposes, of a controller over both sources.
    """
    parts = ("begin", "expand", "verify", "other", *(() if places is None else ("lookup", "plain")))
    knots = length_knots(latency, parts)
    depths, sizes = np.arange(outcomes.depth + 1)[:, None, None], np.array(outcomes.sizes)
    rate = best_static(outcomes)[2].throughput
    if places is None:
        verified = verified_sizes(outcomes.width, outcomes.depth, sizes)
        costs = latency.cycle(depths, verified[:, :, None], knots, TYPICAL_GAIN)
        trust, ahead = np.ones((2, len(depths), len(sizes))), np.zeros((outcomes.depth, FEATURES))
        return ExpectedGain(outcomes.width, outcomes.sizes, chances, trust, knots, costs, ahead, rate)
    assert outcomes.text_scores is not None
    # The draft is likely asked again soon, so a cycle without it pays for the reading of what it gains.
    silent = latency.plain(knots) + reading_more(latency.begin, 1, TYPICAL_GAIN, knots)
    drafted = latency.cycle(depths, 0, knots, TYPICAL_GAIN)
    costs = np.concatenate([drafted, silent[None, None]]) + latency.lookup(knots)
    every = np.arange(sizes[-1] + 1)[:, None]
    whole = latency.verify(every, knots) + latency.other(every, knots)
    text = TextTables(
        outcomes.max_text,
        outcomes.text_scores,
        calibrate_text(places, outcomes.scores, outcomes.depth),
        whole - whole[0],
    )
    trust = np.ones((2, len(depths) + 1, len(sizes)))
    ahead = np.zeros((outcomes.depth + 1, FEATURES + TEXT_FEATURES))
    return ExpectedGain(outcomes.width, outcomes.sizes, chances, trust, knots, costs, ahead, rate, text=text)


def believe(controller: ExpectedGain, outcomes: Outcomes, places: TextPlaces | None = None) -> Beliefs:
    """What its tables say at every position.

    Args:
        places: what the text proposes there, for a controller that knows it.
    """
    width, text = outcomes.width, controller.text
    starts = level_starts(width, controller.max_depth)
    best_scores, best = outcomes.scores[:, :0], np.zeros((outcomes.positions, 0))
    expected, costs, newest = [], [], []
    for level in range(controller.max_depth + 1):
        scores = outcomes.scores[:, starts[level] : candidate_count(width, level)]
        chances = controller.chances[level][bins_of(scores)]
        if places is not None and text is not None:
            own = np.where(places.levels == level, places.columns - starts[level], -1)
            scores, chances = text.with_both(scores, chances, own, places.scores)
        together = np.concatenate([best_scores, scores], axis=1), np.concatenate([best, chances], axis=1)
        best_scores, best = ranked(*together, controller.max_size)
        seen = None if places is None else places.seen(level)
        everything = best if seen is None else controller.best_of_both(best_scores, best, seen, level)
        expected.append(controller.expected(everything, level))
        costs.append(controller.cost(outcomes.lengths, level, seen))
        newest.append(chances)
    if places is not None:
        seen = places.seen(NOT_ASKED)
        expected.append(controller.expected(controller.best_of_both(best_scores, best, seen, NOT_ASKED), NOT_ASKED))
        costs.append(controller.cost(outcomes.lengths, NOT_ASKED, seen))
        newest.append(best[:, :0])
    return Beliefs(
        expected=np.stack(expected, axis=1),
        costs=np.stack(costs, axis=1),
        masses=np.stack([chances.sum(axis=1) for chances in newest], axis=1),
        tops=np.stack([chances.max(axis=1, initial=0.0) for chances in newest], axis=1),
        text=None if places is None else places.features,
    )


def fit_trust(beliefs: Beliefs, outcomes: Outcomes) -> Doubles:
    """float64 (2, stages, S): the line from the sums of the chances, which are expected - 1, to the gains."""
    sums, gains = beliefs.expected - 1.0, outcomes.gains if beliefs.text is not None else outcomes.gains[:, :NOT_ASKED]
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
    rows, first = np.arange(outcomes.positions), first_stage(beliefs)
    ahead, later = np.zeros_like(controller.ahead), np.zeros(outcomes.positions)
    reading = reading_after(outcomes).astype(np.float64)
    for depth in range(outcomes.depth, first - 1, -1):
        worth, seen = judge(controller, beliefs, depth)
        step = worth.argmax(axis=1)
        gained, seconds = outcomes.gains[rows, depth, step], outcomes.seconds[rows, depth, step].astype(np.float64)
        if depth == NOT_ASKED:
            seconds += reading[rows, step]
        now = controller.worth(gained, seconds)
        if depth < outcomes.depth:
            ahead[depth] = ridge(seen, later)
            goes_on = (seen * ahead[depth]).sum(axis=1) > worth.max(axis=1)
            now = np.where(goes_on, later, now)
        later = now
    return replace(controller, ahead=ahead)


def first_stage(beliefs: Beliefs) -> int:
    """The depth at which a controller is asked first."""
    return 0 if beliefs.text is None else NOT_ASKED


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
    return worth, features(worth.max(axis=1), beliefs.masses[:, depth], beliefs.tops[:, depth], beliefs.text)


def choose(controller: ExpectedGain, beliefs: Beliefs) -> tuple[Integers, Integers]:
    """int64 (P,) each: the depth and the step of the ladder that the controller decides on at every position."""
    count, limit = len(beliefs.masses), controller.max_depth
    depths, steps = np.full(count, limit), np.zeros(count, dtype=np.int64)
    going = np.ones(count, dtype=bool)
    for depth in range(first_stage(beliefs), limit + 1):
        worth, seen = judge(controller, beliefs, depth)
        stops = going.copy()
        if depth < limit:
            stops &= ~(controller.going_on(seen, depth) > worth.max(axis=1))
        depths[stops], steps[stops] = depth, worth.argmax(axis=1)[stops]
        going &= ~stops
    return depths, steps


def decide_everywhere(
    controller: ExpectedGain, outcomes: Outcomes, generations: Sequence[RecordedGeneration] = ()
) -> tuple[Integers, Integers]:
    """`choose` at the positions of some outcomes, if the controller drafts at all.

    Args:
        generations: of the outcomes; needed by a controller that knows the text, which looks it up by its own scores.

    Raises:
        InputError: outcomes of another width, or not as deep as the controller may draft; or other generations.
    """
    if (outcomes.width, max(outcomes.depth, controller.max_depth)) != (controller.width, outcomes.depth):
        raise InputError(
            f"the controller is for beam width {controller.width} and depth {controller.max_depth}; these traces have "
            f"width {outcomes.width} and depth {outcomes.depth}"
        )
    if controller.text is None:
        return choose(controller, believe(controller, outcomes))
    kept = [generation for generation in generations if generation.positions]
    if sum(generation.positions for generation in kept) != outcomes.positions:
        raise InputError("the controller looks tokens up, so it needs the generations that the outcomes are of")
    places = places_of(kept, controller.text.scores, controller.text.most)
    return choose(controller, believe(controller, outcomes, places))
