"""What could be won: the best fixed decision, the best of every cycle in hindsight, and the exact optimum.

All tokens of an answer have to be passed, whatever is decided, so the greatest throughput is the least time. Where a
cycle begins at position p and gains g, the next begins at p + g. A plain cycle gains one token, which the draft has to
read before it drafts again. So with u tokens that the draft has not read, the least time from p on is the least of

    drafting        seconds[p, decision] + best[p + g, g],     g = gain[p, decision], the best of all decisions,
    a plain cycle   plain[p] + (begin[u + 1] - begin[u]) + best[p + 1, u + 1],
    no draft again  plain[p] + plain[p + 1] + … up to the end,

with best[end, u] = 0, worked out from the end of every answer backwards. (A draft's reading of what a drafting cycle
gained is in that cycle's seconds, see `ltd_rl.traces.outcomes`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Integers
from ltd_rl.traces.outcomes import Outcomes, Total, all_catching_up, reading_one_more, total, visited

PLAIN = -1  # the depth of a plain cycle
DRAFTING, WAITING, NEVER = range(3)
KINDS = np.array([NEVER, WAITING, DRAFTING], dtype=np.int8)
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
    """The schedule of the highest throughput that there is; exact, see this file's head.

    At positions where none of its cycles begins, it says what would be best if one did and the draft lacked one token.
    """
    cheapest, choices = cheapest_by_gain(outcomes)
    wanted, kinds = least_time(outcomes, cheapest)
    plain = plain_cycles(wanted, kinds, outcomes.starts)
    return schedule_of(outcomes, np.where(plain, 0, choices[np.arange(outcomes.positions), wanted - 1]))


def cheapest_by_gain(outcomes: Outcomes) -> tuple[Seconds, Integers]:
    """The cheapest draft with each gain, 1 … G (the largest of all), at every position.

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
    return cheapest, choices


def least_time(outcomes: Outcomes, cheapest: Seconds) -> tuple[Integers, NDArray[np.int8]]:
    """What to do at every position, so that all generations take least time.

    Args:
        cheapest: float64 (P, G), as `cheapest_by_gain` gives it.

    Returns:
        wanted: int64 (P,), the gain to go for with a draft.
        kinds: int8 (P, U + 1), which of this file's three is best where the draft has not read so many tokens:
            `DRAFTING`, `WAITING` (a plain cycle) or `NEVER` (no draft again). U is the longest generation's number of
            positions. At 0 it is not known: the last token is always unread.
    """
    counts, most = np.diff(outcomes.starts), cheapest.shape[1]
    longest = int(counts.max())
    wanted, kinds = np.ones(outcomes.positions, dtype=np.int64), np.zeros((outcomes.positions, longest + 1), np.int8)
    unread = np.arange(1, longest + 1)
    # By the number of tokens left, modulo G + 1: the least time of each generation from there, by unread tokens.
    best = np.full((most + 1, len(counts), longest + 2), np.inf)
    best[0] = 0.0
    never = np.zeros(len(counts))  # what is left takes so long without any draft
    for left in range(1, longest + 1):
        alive = np.flatnonzero(counts >= left)
        rows = outcomes.starts[1:][alive] - left
        ahead = [best[(left - gain) % (most + 1), alive, gain] for gain in range(1, min(most, left) + 1)]
        drafted = cheapest[rows, : len(ahead)] + np.stack(ahead, axis=1)
        never[alive] += outcomes.plain_seconds[rows]
        reading = reading_one_more(outcomes.begin, unread, outcomes.lengths[rows, None])
        later = outcomes.plain_seconds[rows, None] + reading + best[(left - 1) % (most + 1), alive, 2:]
        wanted[rows], least = 1 + drafted.argmin(axis=1), drafted.min(axis=1)[:, None]
        least, silent = np.broadcast_to(least, later.shape), np.broadcast_to(never[alive, None], later.shape)
        times = np.stack([silent, later, least])  # in this order: of equals, the smallest draft
        kinds[rows, 1:] = KINDS[times.argmin(axis=0)]
        best[left % (most + 1), alive, 1:-1] = times.min(axis=0)
    return wanted, kinds


def plain_cycles(wanted: Integers, kinds: NDArray[np.int8], starts: Integers) -> NDArray[np.bool_]:
    """bool (P,): where the schedule of `least_time`, followed from the starts, is plain; see `optimum`."""
    plain = np.array(kinds[:, 1] != DRAFTING, dtype=bool)
    at, ends, unread = starts[:-1].copy(), starts[1:], np.ones(len(starts) - 1, dtype=np.int64)
    alive, silent = np.arange(len(at)), np.zeros(len(at), dtype=bool)
    while len(alive):
        here = at[alive]
        kind = kinds[here, unread[alive]]
        silent[alive] |= kind == NEVER  # what it saves is that nothing has to be read, so it stays so
        plain[here] = silent[alive] | (kind != DRAFTING)
        steps = np.where(plain[here], 1, wanted[here])
        unread[alive] = np.where(plain[here], unread[alive] + 1, steps)
        at[alive] = here + steps
        alive = alive[at[alive] < ends[alive]]
    return plain


def schedule_of(outcomes: Outcomes, choices: Integers) -> DraftSchedule:
    """The schedule of choices (P,): 0 is plain, 1 + depth * S + step a draft."""
    rows, plain = np.arange(outcomes.positions), choices == 0
    depths, steps = np.divmod(np.maximum(choices - 1, 0), len(outcomes.sizes))
    gains = np.where(plain, 1, outcomes.gains[rows, depths, steps])
    seconds = np.where(plain, outcomes.plain_seconds, outcomes.seconds[rows, depths, steps])
    seen = visited(gains, outcomes.starts)
    took = seconds[seen].sum(dtype=np.float64) + all_catching_up(outcomes, plain, seen).sum()
    found = Total(outcomes.tokens, float(took), int(seen.sum()))
    return DraftSchedule(np.where(plain, PLAIN, depths), steps, found)
