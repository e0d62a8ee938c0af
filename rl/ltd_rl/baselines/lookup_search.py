"""The best fixed way to look tokens up without a draft: how many to verify, and how likely each of them must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies.lookup import Lookup
from ltd.tree import NOT_ASKED
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.outcomes import Total, outcomes_of, total
from ltd_rl.traces.text import propose_everywhere

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, LOOKED_UP)
LEAST = (0.0, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.7)


def best_lookup(
    generations: Sequence[RecordedGeneration], latency: LatencyModel, scores: TextScores
) -> tuple[Lookup, Total]:
    """The policy with the highest throughput on some generations, and what it comes to; of equals, the smallest.

    Args:
        generations: from the traces, with or without a draft.
        latency: of the machine.
        scores: how likely tokens are, as they will be looked up.

    Raises:
        InputError: there is no position.
    """
    shallow = min((0, *(generation.depth for generation in generations)))  # no more than the stage that is read
    outcomes = outcomes_of(generations, latency, range(LOOKED_UP + 1), shallow, scores, LOOKED_UP)
    proposals = [propose_everywhere(each, scores, LOOKED_UP) for each in generations if each.positions]
    chances = np.concatenate([each.chances for each in proposals])
    found = []
    for size in SIZES:
        for least in reversed(LEAST):
            likely = np.count_nonzero(chances > np.float32(least), axis=1)
            found.append((Lookup(size, least), total(outcomes, NOT_ASKED, np.minimum(size, likely))))
    return max(found, key=lambda entry: entry[1].throughput)
