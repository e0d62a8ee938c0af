"""What could be won: the best fixed decision, the best of every cycle in hindsight, and the exact optimum.

All tokens of an answer have to be passed, whatever is decided, so the greatest throughput is the least time. Where a
cycle begins at position p and gains g, the next begins at p + g. Hence the least time from p on is

    best[p] = min over decisions of seconds[p, decision] + best[p + gain[p, decision]],    best[end] = 0,

worked out from the end of every answer backwards. Plain cycles, which gain one token, are among the decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Integers
from ltd_rl.traces.outcomes import Outcomes, Total, total, visited

PLAIN = -1  # the depth of a plain cycle
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DraftSchedule:
    """A decision for every position, and what they come to.

    Attributes:
        depths: int64 (P,); `PLAIN` is a cycle without a draft.
        steps: int64 (P,), of the ladder; 0 where the cycle is plain.
        total: over all generations.
    """

    depths: Integers
    steps: Integers
    total: Total


def best_static(outcomes: Outcomes) -> tuple[int, int, Total]:
    """Depth and step of the ladder with the highest throughput if all cycles decide so, and what that comes to."""
    grid = [
        (depth, step, total(outcomes, depth, step))
        for depth in range(outcomes.depth + 1)
        for step in range(len(outcomes.sizes))
    ]
    return max(grid, key=lambda entry: entry[2].throughput)


def hindsight(outcomes: Outcomes, rate: float | None = None) -> DraftSchedule:
    """Every cycle decides best for itself, knowing what it will gain; of equals, the smallest draft.

    Args:
        rate: tokens per second. A cycle maximises gain - rate * seconds; None: gain / seconds.
    """

    def worth(gain: NDArray[Any], seconds: NDArray[Any]) -> Seconds:
        # In float64: what the rate takes away is about as much as the gain.
        return np.asarray(gain / seconds if rate is None else gain - rate * seconds, dtype=np.float64)

    drafted = worth(outcomes.gains, outcomes.seconds.astype(np.float64)).reshape(outcomes.positions, -1)
    plain = worth(np.ones(1), outcomes.plain_seconds.astype(np.float64))
    choices = np.concatenate([plain[:, None], drafted], axis=1).argmax(axis=1)
    return schedule_of(outcomes, choices)


def optimum(outcomes: Outcomes) -> DraftSchedule:
    """The schedule of the highest throughput that there is; exact, see this file's head."""
    cheapest, choices = cheapest_by_gain(outcomes)
    gained = least_time(cheapest, outcomes.starts)
    return schedule_of(outcomes, choices[np.arange(outcomes.positions), gained - 1])


def cheapest_by_gain(outcomes: Outcomes) -> tuple[Seconds, Integers]:
    """The cheapest decision with each gain, 1 … G (the largest of all), at every position.

    Returns:
        seconds: float64 (P, G), infinite where no decision gains that.
        choices: int64 (P, G), as `schedule_of` takes them.
    """
    positions, most = outcomes.positions, int(outcomes.gains.max())
    gains, seconds = outcomes.gains.reshape(positions, -1), outcomes.seconds.reshape(positions, -1)
    cheapest, choices = np.full((positions, most), np.inf), np.zeros((positions, most), dtype=np.int64)
    for gain in range(1, most + 1):
        fitting = np.where(gains == gain, seconds, np.float32(np.inf))
        choices[:, gain - 1] = 1 + fitting.argmin(axis=1)
        cheapest[:, gain - 1] = fitting.min(axis=1)
    plain = outcomes.plain_seconds <= cheapest[:, 0]
    cheapest[plain, 0], choices[plain, 0] = outcomes.plain_seconds[plain], 0
    return cheapest, choices


def least_time(cheapest: Seconds, starts: Integers) -> Integers:
    """int64 (P,): the gain to go for at every position, so that all generations (from `starts`) take least time."""
    most, ends, counts = cheapest.shape[1], starts[1:], np.diff(starts)
    wanted = np.zeros(len(cheapest), dtype=np.int64)
    # Column `most + k` is the least time of each generation's last k tokens; none ends before it does.
    best = np.full((len(counts), most + int(counts.max()) + 1), np.inf)
    best[:, most] = 0.0
    for left in range(1, int(counts.max()) + 1):
        alive = np.flatnonzero(counts >= left)
        rows = ends[alive] - left
        times = cheapest[rows] + best[alive, left : left + most][:, ::-1]
        wanted[rows] = 1 + times.argmin(axis=1)
        best[alive, most + left] = times.min(axis=1)
    return wanted


def schedule_of(outcomes: Outcomes, choices: Integers) -> DraftSchedule:
    """The schedule of choices (P,): 0 is plain, 1 + depth * S + step a draft."""
    rows, plain = np.arange(outcomes.positions), choices == 0
    depths, steps = np.divmod(np.maximum(choices - 1, 0), len(outcomes.sizes))
    gains = np.where(plain, 1, outcomes.gains[rows, depths, steps])
    seconds = np.where(plain, outcomes.plain_seconds, outcomes.seconds[rows, depths, steps])
    seen = visited(gains, outcomes.starts)
    found = Total(outcomes.tokens, float(seconds[seen].sum(dtype=np.float64)), int(seen.sum()))
    return DraftSchedule(np.where(plain, PLAIN, depths), steps, found)
