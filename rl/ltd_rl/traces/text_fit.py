"""Fits to traces how likely looked-up tokens are, and what the head's scores mean beside them.

A chance is how often tokens of one kind of evidence were the target's, where their parents were. Few of a kind say
little, so each kind is counted together with some imagined tokens that are as likely as those of its match length, and
these with some as likely as all. Which tokens are looked at depends on the chances themselves, so this is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.latency.interpolation import pool
from ltd.lookup import TextScores
from ltd.lookup.scores import AGREEMENTS, LEAST_CHANCE, MATCHES, MOST_CHANCE, RATES, default_text_scores
from ltd_rl.traces.format import RecordedGeneration, temperatures_of
from ltd_rl.traces.text import follow_text, propose_everywhere

PASSES = 2
IMAGINED = 8.0  # tokens that each kind of evidence is counted together with
BIN, BINS = 0.25, 48  # of the head's scores, from 0 to -12
FEWEST = 30  # candidates that say something about a bin
SLOPE = 1e-4  # between neighbouring log-chances at least: knots ascend strictly


def fit_text_scores(generations: Sequence[RecordedGeneration], most: int) -> TextScores:
    """The scores that fit these generations; for greedy and for sampled text apart where there is text of both.

    Args:
        generations: from the traces. most: candidates of a position, 1 … 64, as they will be looked up.

    Raises:
        InputError: `most` out of range.
    """
    kinds = [[each for each in generations if (each.sampling.temperature > 0) == sampled] for sampled in (False, True)]
    if not all(kinds):
        return fit_one_kind(generations, most)
    greedy, sampled = (fit_one_kind(kind, most) for kind in kinds)
    return replace(greedy, sampled=sampled)


def fit_one_kind(generations: Sequence[RecordedGeneration], most: int) -> TextScores:
    """The scores that fit generations which are all greedy, or all sampled. Arguments as `fit_text_scores`."""
    start = default_text_scores().at(max(temperatures_of(generations), default=0.0))
    scores = TextScores(start.chances, *head_knots(generations))
    for _ in range(PASSES):
        scores = replace(scores, chances=seen_chances(generations, scores, most))
    return scores


def seen_chances(generations: Sequence[RecordedGeneration], scores: TextScores, most: int) -> Floats:
    """float32 (MATCHES, AGREEMENTS, RATES): how often tokens were right that are looked up by these scores.

    Where none are, what the scores say.
    """
    kinds = MATCHES * AGREEMENTS * RATES
    counts, hits = np.zeros(kinds, dtype=np.int64), np.zeros(kinds, dtype=np.int64)
    for generation in generations:
        proposals = propose_everywhere(generation, scores, most)
        followed = follow_text(generation, proposals)
        counts += np.bincount(proposals.cells[followed.reached], minlength=kinds)
        hits += np.bincount(proposals.cells[followed.right], minlength=kinds)
    return smoothed(hits, counts) if counts.any() else scores.chances


def smoothed(hits: Integers, counts: Integers) -> Floats:
    """float32 (MATCHES, AGREEMENTS, RATES): chances from int64 (MATCHES * AGREEMENTS * RATES,), not all 0."""
    hit, seen = (values.reshape(MATCHES, -1) for values in (hits, counts))
    overall = hit.sum() / seen.sum()
    by_match = (hit.sum(axis=1) + IMAGINED * overall) / (seen.sum(axis=1) + IMAGINED)
    chances = ((hit + IMAGINED * by_match[:, None]) / (seen + IMAGINED)).reshape(MATCHES, AGREEMENTS, RATES)
    clipped: Floats = np.clip(chances.astype(np.float32), LEAST_CHANCE, MOST_CHANCE)
    return clipped


def head_knots(generations: Sequence[RecordedGeneration]) -> tuple[Floats, Floats]:
    """float32 (K,) each: scores of the head, and the log-chance of its candidates to be right; ascending both.

    Never less for a higher score. Bins of scores of which little was seen, or none was right, give no knot.
    """
    counts, hits = np.zeros(BINS, dtype=np.int64), np.zeros(BINS, dtype=np.int64)
    for generation in generations:
        rows, levels = np.nonzero(generation.path >= 0)
        counts += by_bin(generation.scores.ravel())
        hits += by_bin(generation.scores[rows, generation.path[rows, levels]])
    places = np.flatnonzero(counts >= FEWEST)[::-1]  # from the lowest score up
    if not len(places):
        return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
    chances: Doubles = pool(hits[places] / counts[places], counts[places].astype(np.float64))
    known = chances > 0
    middles = -BIN * (places[known] + 0.5)
    rising = np.log(chances[known]) - SLOPE * np.arange(len(middles))[::-1]
    return middles.astype(np.float32), rising.astype(np.float32)


def by_bin(scores: Floats) -> Integers:
    """(n,) → int64 (BINS,): how many there are in each bin; lower ones do not count."""
    bins = np.minimum(-scores / np.float32(BIN), BINS).astype(np.int64)
    return np.bincount(bins, minlength=BINS + 1)[:BINS]
