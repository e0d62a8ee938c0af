"""Which sizes and depths are worth having among the choices on a machine, from what its optimum uses there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.cycle_costs import TYPICAL_GAIN
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.observation import Summary
from ltd.tree import NOT_ASKED
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.optimum import optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of

# Fine where a small machine's costs begin to rise, coarse where a forward costs much anyway; to the paper's 240.
EVERY_SIZE = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 60, *range(80, 241, 20))
COVERED = 0.99  # of the optimum's cycles
LARGE_TREE = 32  # from here on more scores are shown
SMALL_SUMMARY, LARGE_SUMMARY = Summary(12, 6), Summary(64, 32)


def worthwhile(
    generations: Sequence[RecordedGeneration],
    latency: LatencyModel,
    text: TextScores | None = None,
    most: int = LOOKED_UP,
) -> tuple[tuple[int, ...], int]:
    """The ladder of sizes and the depth limit that leave the optimum at least 99 % of its cycles as they are.

    A policy that cannot see the future needs no larger trees than the optimum, which can. A smaller choice is learned
    faster and costs less to evaluate.

    Args:
        text, most: as for `outcomes_of`.

    Returns:
        sizes, ascending from 0; and the depth limit, at least 1, but -1 for traces without a draft.
    """
    return covering(outcomes_of(generations, latency, EVERY_SIZE, text=text, most=most))


def covering(outcomes: Outcomes) -> tuple[tuple[int, ...], int]:
    """The same of tables that have the sizes, ascending from 0, and the depths to choose among."""
    best = optimum(outcomes)
    drafted, verified = best.depths != NOT_ASKED, best.steps > 0
    depth, size = min(1, outcomes.depth), 1
    if drafted.any():
        depth = max(depth, int(np.quantile(best.depths[drafted], COVERED, method="higher")))
    if verified.any():
        size = max(size, outcomes.sizes[int(np.quantile(best.steps[verified], COVERED, method="higher"))])
    return tuple(step for step in outcomes.sizes if step <= size), depth


def summary_for(sizes: Sequence[int], text: int = 0) -> Summary:
    """What policies with this ladder see, with so many numbers of the text's candidates."""
    return replace(SMALL_SUMMARY if sizes[-1] <= LARGE_TREE else LARGE_SUMMARY, text=text)


def relative_costs(outcomes: Outcomes, latency: LatencyModel) -> Costs:
    """What cycles with a draft cost in plain tokens, at the median context length."""
    length = float(np.median(outcomes.lengths))
    plain = float(latency.plain(length))
    deepest = latency.parts["expand"].sizes[-1]
    expansions = float(latency.draft(deepest, length, TYPICAL_GAIN) - latency.begin(TYPICAL_GAIN, length))
    sizes = np.array(outcomes.sizes)
    return Costs(
        begin=float(latency.begin(TYPICAL_GAIN, length)) / plain,
        expand=expansions / float(deepest) / plain,
        verify=tuple(float(cost) / plain for cost in latency.verify(sizes, length) + latency.other(sizes, length)),
        lookup=float(latency.lookup(length)) / plain if outcomes.max_text else 0.0,
    )
