"""What could be won: the best fixed decision, the best of every cycle in hindsight, and the exact optimum.

All tokens of an answer have to be passed, whatever is decided, so the greatest throughput is the least time. Where a
cycle begins at position p and gains g, the next begins at p + g. What a cycle gains in which the head is not asked, a
*silent* one, the draft has to read before it drafts again. A plain cycle is one, with a gain of 1; with what the text
proposes there are others. So with u tokens that the draft has not read, the least time from p on is the least of

    drafting        seconds[p, decision] + best[p + g, g],     g = gain[p, decision], the best of all decisions,
    a silent cycle  seconds[p, decision] + (begin[u + g] - begin[u]) + best[p + g, u + g],     likewise,
    no draft again  never[p], the least time of silent cycles alone, of which nothing is read,

with best[end, u] = 0, worked out from the end of every answer backwards. (A draft's reading of what a drafting cycle
gained is in that cycle's seconds, see `ltd_rl.traces.outcomes`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Integers
from ltd.tree import NOT_ASKED
from ltd_rl.traces.outcomes import Outcomes, Total, total

DRAFTING, WAITING, NEVER = range(3)
KINDS = np.array([NEVER, WAITING, DRAFTING], dtype=np.int8)
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DraftSchedule:
    """A decision for every position, and what they come to.

    Attributes:
        depths: int64 (P,); `NOT_ASKED` is a cycle in which the head is not asked.
        steps: int64 (P,), of the ladder; 0 where the cycle is plain.
        total: over all generations.
    """

    depths: Integers
    steps: Integers
    total: Total


def best_static(outcomes: Outcomes, least_depth: int = NOT_ASKED) -> tuple[int, int, Total]:
    """Depth and step of the ladder with the highest throughput if all cycles decide so, and what that comes to.

    Where tokens are looked up, the sizes are cut at the candidates of both sources, and `NOT_ASKED` is a depth too.

    Args:
        least_depth: those below are left out.
    """
    grid = [
        (depth, step, total(outcomes, depth, step))
        for depth in range(max(least_depth, outcomes.least_depth), outcomes.depth + 1)
        for step in range(len(outcomes.sizes))
    ]
    return max(grid, key=lambda entry: entry[2].throughput)


def hindsight(outcomes: Outcomes, rate: float | None = None) -> DraftSchedule:
    """Every cycle decides best for itself, knowing what it will gain; of equals, the smallest draft.

    Args:
        rate: tokens per second. A cycle maximises gain - rate * seconds; None: gain / seconds.
    """
    gains, seconds = silent_first(outcomes.gains), silent_first(outcomes.seconds).astype(np.float64)
    # In float64: what the rate takes away is about as much as the gain.
    worth = gains / seconds if rate is None else gains - rate * seconds
    return schedule_of(outcomes, worth.argmax(axis=1))


def optimum(outcomes: Outcomes) -> DraftSchedule:
    """The schedule of the highest throughput that there is; exact, see this file's head.

    At positions where none of its cycles begins, it says what would be best if one did and the draft lacked one token.
    """
    most, sizes = int(outcomes.gains.max()), len(outcomes.sizes)
    gains, seconds = silent_first(outcomes.gains), silent_first(outcomes.seconds)
    silent_seconds, silent_choices = cheapest_by_gain(gains[:, :sizes], seconds[:, :sizes], most)
    draft_seconds, draft_choices = cheapest_by_gain(gains[:, sizes:], seconds[:, sizes:], most)
    silent, wanted = followed(least_time(outcomes, draft_seconds, silent_seconds), outcomes.starts)
    rows = np.arange(outcomes.positions)
    choices = np.where(silent, silent_choices[rows, wanted - 1], sizes + draft_choices[rows, wanted - 1])
    return schedule_of(outcomes, choices)


def silent_first(table: NDArray[Any]) -> NDArray[Any]:
    """(P, D + 2, S) → (P, (D + 2) * S): all decisions, those of stage -1 before all others."""
    return np.roll(table, 1, axis=1).reshape(len(table), -1)


def cheapest_by_gain(gains: Integers, seconds: NDArray[np.float32], most: int) -> tuple[Seconds, Integers]:
    """The cheapest decision with each gain, 1 … `most`, at every position.

    Args:
        gains, seconds: (P, n), of n decisions.

    Returns:
        seconds: float64 (P, most), infinite where no decision gains that.
        choices: int64 (P, most), numbers of decisions; of equals, the first.
    """
    cheapest, choices = np.full((len(gains), most), np.inf), np.zeros((len(gains), most), dtype=np.int64)
    if not gains.shape[1]:
        return cheapest, choices
    for gain in range(1, most + 1):
        fitting = np.where(gains == gain, seconds, np.float32(np.inf))
        choices[:, gain - 1] = fitting.argmin(axis=1)
        cheapest[:, gain - 1] = fitting.min(axis=1)
    return cheapest, choices


@dataclass(frozen=True, slots=True, eq=False)
class Plans:
    """What to do at every position, so that all generations take least time.

    Where it depends on how many tokens the draft has not read, there is an entry for each number, up to U, which is the
    longest generation's number of positions. At 0 it is not known: the last token is always unread.

    Attributes:
        kinds: int8 (P, U + 1), which is best: `DRAFTING`, `WAITING` (a silent cycle) or `NEVER` (no draft again).
        drafting: int64 (P,), the gain to go for with a draft.
        waiting: int64 (P, U + 1), in a silent cycle before others with a draft.
        never: int64 (P,), in a silent cycle before none.
    """

    kinds: NDArray[np.int8]
    drafting: Integers
    waiting: Integers
    never: Integers


def least_time(outcomes: Outcomes, drafts: Seconds, silents: Seconds) -> Plans:
    """Works out all plans.

    Args:
        drafts, silents: float64 (P, G), the cheapest cycle of each kind by gain, as `cheapest_by_gain` gives it.
    """
    counts, most = np.diff(outcomes.starts), drafts.shape[1]
    longest = int(counts.max())
    each, by_unread = outcomes.positions, (outcomes.positions, longest + 1)
    plans = Plans(
        kinds=np.zeros(by_unread, dtype=np.int8),
        drafting=np.ones(each, dtype=np.int64),
        waiting=np.ones(by_unread, dtype=np.int64),
        never=np.ones(each, dtype=np.int64),
    )
    silent_gains = 1 + np.flatnonzero(np.isfinite(silents).any(axis=0))  # few: without text it is 1 alone
    # By the number of tokens left, modulo G + 1: the least time of each generation from there, by unread tokens.
    best = np.full((most + 1, len(counts), longest + most + 1), np.inf)
    best[0] = 0.0
    # The same without any draft.
    never = np.zeros((most + 1, len(counts)))
    for left in range(1, longest + 1):
        alive = np.flatnonzero(counts >= left)
        rows = outcomes.starts[1:][alive] - left
        ahead = [best[(left - gain) % (most + 1), alive, gain] for gain in range(1, min(most, left) + 1)]
        drafted = drafts[rows, : len(ahead)] + np.stack(ahead, axis=1)
        plans.drafting[rows] = 1 + drafted.argmin(axis=1)
        reading = outcomes.begin(np.arange(longest + most + 1), outcomes.lengths[rows, None])
        reachable = silent_gains[silent_gains <= left]
        waits, silences = [], []
        for gain in reachable.tolist():
            then, took = (left - gain) % (most + 1), silents[rows, gain - 1]
            read = reading[:, 1 + gain : 1 + gain + longest] - reading[:, 1 : 1 + longest]
            waits.append(took[:, None] + read + best[then, alive, 1 + gain : 1 + gain + longest])
            silences.append(took + never[then, alive])
        waited, silent = np.stack(waits), np.stack(silences)
        plans.waiting[rows, 1:], plans.never[rows] = reachable[waited.argmin(axis=0)], reachable[silent.argmin(axis=0)]
        later = waited.min(axis=0)
        never[left % (most + 1), alive] = silent.min(axis=0)
        # In this order: of equals, the smallest draft.
        kinds = silent.min(axis=0)[:, None], later, drafted.min(axis=1)[:, None]
        times = np.stack(np.broadcast_arrays(*kinds))
        plans.kinds[rows, 1:] = KINDS[times.argmin(axis=0)]
        best[left % (most + 1), alive, 1 : longest + 1] = times.min(axis=0)
    return plans


def followed(plans: Plans, starts: Integers) -> tuple[NDArray[np.bool_], Integers]:
    """Follows the plans from the starts of the generations.

    Returns:
        silent: bool (P,), where the head is not asked. wanted: int64 (P,), the gain to go for. See `optimum` for where
            no cycle begins.
    """
    kinds = plans.kinds[:, 1]
    silent = np.array(kinds != DRAFTING, dtype=bool)
    wanted = np.select([kinds == DRAFTING, kinds == WAITING], [plans.drafting, plans.waiting[:, 1]], plans.never)
    at, ends, unread = starts[:-1].copy(), starts[1:], np.ones(len(starts) - 1, dtype=np.int64)
    alive, for_good = np.arange(len(at)), np.zeros(len(at), dtype=bool)
    while len(alive):
        here = at[alive]
        kind = plans.kinds[here, unread[alive]]
        for_good[alive] |= kind == NEVER  # what it saves is that nothing has to be read, so it stays so
        silent[here] = for_good[alive] | (kind != DRAFTING)
        choices = [plans.never[here], plans.waiting[here, unread[alive]]]
        wanted[here] = np.select([for_good[alive], kind == WAITING], choices, plans.drafting[here])
        unread[alive] = np.where(silent[here], unread[alive], 0) + wanted[here]
        at[alive] = here + wanted[here]
        alive = alive[at[alive] < ends[alive]]
    return silent, wanted


def schedule_of(outcomes: Outcomes, choices: Integers) -> DraftSchedule:
    """The schedule of choices (P,), numbers of decisions in the order of `silent_first`."""
    stages, steps = np.divmod(choices, len(outcomes.sizes))
    depths = stages + NOT_ASKED
    return DraftSchedule(depths, steps, total(outcomes, depths, steps))
