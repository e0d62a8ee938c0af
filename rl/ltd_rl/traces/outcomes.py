"""What every decision would gain and cost at every position of recorded generations: traces and latencies together.

A decision is a depth, 0 … D, and a step of a ladder of sizes. Environments, the exact trainer and the optimum all read
these tables, so what one of them counts as gain or cost, the others do.

The draft reads the tokens that a cycle gained at the beginning of the next one. Their cost is counted here in the cycle
that gained them, so that a cycle's seconds depend on its own decision only; over a generation that is the same sum, but
for the first cycle's beginning taking the place of the last one's. What plain cycles gain is read only if a later cycle
drafts again, so it is in no cycle's seconds: `catching_up` counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.tree import MAX_SIZE, candidate_count
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.replay import gains

CostOf = Callable[[ArrayLike, ArrayLike], Doubles]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """P positions of G generations, one after the other; D + 1 depths; S sizes.

    Attributes:
        width: beam width W.
        sizes: the ladder, ascending, (S,).
        starts: int64 (G + 1,), the first position of every generation, and P.
        lengths: int64 (P,), context lengths.
        gains: int64 (P, D + 1, S), tokens; the last cycle's end where the answer ends.
        seconds: float32 (P, D + 1, S), of a whole cycle.
        plain_seconds: float32 (P,), of a cycle of plain decoding.
        scores: float32 (P, C), cumulative log-probabilities of the candidates of levels 0 … D, level by level.
        states: float32 (P, H), the draft's states at the roots.
        begin: seconds of a draft's beginning, by the tokens that it has not read and the context length.
    """

    width: int
    sizes: tuple[int, ...]
    starts: Integers
    lengths: Integers
    gains: Integers
    seconds: Floats
    plain_seconds: Floats
    scores: Floats
    states: Floats
    begin: CostOf

    @property
    def positions(self) -> int:
        """P."""
        return len(self.lengths)

    @property
    def depth(self) -> int:
        """D, the deepest decision."""
        return int(self.gains.shape[1]) - 1

    @property
    def length_range(self) -> tuple[int, int]:
        """The shortest and the longest context length; there must be a position."""
        return int(self.lengths.min()), int(self.lengths.max())

    @property
    def ends(self) -> Integers:
        """int64 (P,): where the generation of each position ends, as a position."""
        return np.repeat(self.starts[1:], np.diff(self.starts))

    @property
    def tokens(self) -> int:
        """What all generations gain together, whatever is decided: each position is passed once."""
        return self.positions


def outcomes_of(
    generations: Sequence[RecordedGeneration], latency: LatencyModel, sizes: Sequence[int], depth: int | None = None
) -> Outcomes:
    """The tables of some generations on the machine of a latency model.

    Args:
        generations: at least one position together; those without any are left out.
        latency: seconds.
        sizes: the ladder, ascending.
        depth: the deepest decision; None is as deep as the traces.

    Raises:
        InputError: no positions, a ladder that does not ascend within 0 … 512, or a depth beyond that of the traces.
    """
    kept = [generation for generation in generations if generation.positions > 0]
    if not kept:
        raise InputError("there is no cycle in these traces; record longer answers")
    most = min(generation.depth for generation in kept)
    depth = most if depth is None else depth
    if not 0 <= depth <= most:
        raise InputError(f"depth {depth} is out of range; these traces know 0 … {most}")
    ladder = checked_ladder(sizes)
    counts = np.array([generation.positions for generation in kept])
    starts = np.concatenate([[0], np.cumsum(counts)])
    lengths = np.concatenate([g.prompt_length + np.arange(g.positions) for g in kept])
    table = np.stack([every_gain(kept, level, ladder) for level in range(depth + 1)], axis=1)
    width = kept[0].width
    return Outcomes(
        width=width,
        sizes=tuple(int(size) for size in ladder),
        starts=starts,
        lengths=lengths,
        gains=table,
        seconds=cycle_seconds(latency, lengths, table, ladder, width),
        plain_seconds=latency.plain(lengths).astype(np.float32),
        scores=np.concatenate([g.scores[:, : candidate_count(width, depth)] for g in kept]),
        states=np.concatenate([g.states for g in kept]).astype(np.float32),
        begin=latency.begin,
    )


def checked_ladder(sizes: Sequence[int]) -> Integers:
    """int64 (S,): the ladder. Raises InputError if it does not ascend within 0 … 512."""
    ladder = np.asarray(sizes)
    if ladder.ndim != 1 or not len(ladder) or ladder[0] < 0 or ladder[-1] > MAX_SIZE or np.any(np.diff(ladder) <= 0):
        raise InputError(
            f"the sizes {', '.join(map(str, sizes))} are no ladder; they must ascend within 0 … {MAX_SIZE}"
        )
    return ladder


def every_gain(generations: Sequence[RecordedGeneration], depth: int, sizes: Integers) -> Integers:
    """int64 (P, S): what cycles of one depth would gain."""
    rows = [np.stack([gains(generation, depth, int(size)) for size in sizes], axis=1) for generation in generations]
    return np.concatenate(rows)


def cycle_seconds(latency: LatencyModel, lengths: Integers, table: Integers, sizes: Integers, width: int) -> Floats:
    """float32 (P, D + 1, S): what these cycles cost, sizes cut at the candidates that there are."""
    depths = np.arange(table.shape[1])
    verified = verified_sizes(width, table.shape[1] - 1, sizes)
    seconds = latency.cycle(depths[:, None], verified, lengths[:, None, None], table)
    return seconds.astype(np.float32)


def verified_sizes(width: int, depth: int, sizes: Integers) -> Integers:
    """int64 (D + 1, S): the sizes (S,) after 0 … `depth` expansions, cut at the candidates that there are."""
    there = np.array([candidate_count(width, level) for level in range(depth + 1)])
    cut: Integers = np.minimum(sizes, there[:, None])
    return cut


def split(outcomes: Outcomes, generations: Sequence[int]) -> Outcomes:
    """The tables of some of the generations, by number."""
    blocks = [np.arange(outcomes.starts[number], outcomes.starts[number + 1]) for number in generations]
    rows = np.concatenate(blocks)
    return Outcomes(
        width=outcomes.width,
        sizes=outcomes.sizes,
        starts=np.concatenate([[0], np.cumsum([len(block) for block in blocks])]),
        lengths=outcomes.lengths[rows],
        gains=outcomes.gains[rows],
        seconds=outcomes.seconds[rows],
        plain_seconds=outcomes.plain_seconds[rows],
        scores=outcomes.scores[rows],
        states=outcomes.states[rows],
        begin=outcomes.begin,
    )


@dataclass(frozen=True, slots=True)
class Total:
    """What decisions come to.

    Attributes:
        tokens: gained.
        seconds: taken, prefill left out.
        cycles: run.
    """

    tokens: int
    seconds: float
    cycles: int

    @property
    def throughput(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def acceptance_length(self) -> float:
        """τ."""
        return self.tokens / self.cycles


def visited(steps: Integers, starts: Integers) -> NDArray[np.bool_]:
    """Where cycles begin, bool (P,), if each gains `steps` (P,) and every generation's first begins at its start."""
    seen = np.zeros(len(steps), dtype=bool)
    at, ends = starts[:-1].copy(), starts[1:]
    alive = np.arange(len(at))
    while len(alive):
        here = at[alive]
        seen[here] = True
        at[alive] = here + steps[here]
        alive = alive[at[alive] < ends[alive]]
    return seen


def total(outcomes: Outcomes, depths: int | Integers, steps: int | Integers) -> Total:
    """What deciding so comes to over all generations.

    Args:
        depths: one, or (P,). steps: of the ladder, one or (P,).
    """
    rows = np.arange(outcomes.positions)
    gained = outcomes.gains[rows, depths, steps]
    seen = visited(gained, outcomes.starts)
    seconds = outcomes.seconds[rows, depths, steps][seen].sum(dtype=np.float64)
    return Total(outcomes.tokens, float(seconds), int(seen.sum()))


def reading_one_more(begin: CostOf, unread: Integers, lengths: Integers) -> Doubles:
    """Seconds that a draft's beginning takes longer for one token more than the `unread` ones; broadcasts."""
    return begin(unread + 1, lengths) - begin(unread, lengths)


def catching_up(begin: CostOf, positions: Integers, plain: NDArray[np.bool_], lengths: Integers) -> float:
    """Seconds that the draft of one generation takes to read what plain cycles gained, as far as it drafts again.

    Args:
        begin: as in `Outcomes`.
        positions: int64 (n,), of the generation's cycles, in order, from 0.
        plain: bool (n,), whether they are.
        lengths: int64 (n,), context lengths.
    """
    if plain.all():
        return 0.0
    # A draft has read all tokens up to the root of its last cycle; before the first, all but the prefill's.
    read = np.maximum.accumulate(np.where(plain, -1, positions))
    unread = positions - np.concatenate([[-1], read[:-1]])
    counts = plain & (positions < read[-1])
    return float(reading_one_more(begin, unread[counts], lengths[counts]).sum())


def all_catching_up(outcomes: Outcomes, plain: NDArray[np.bool_], seen: NDArray[np.bool_]) -> Doubles:
    """float64 (G,): `catching_up` of every generation.

    Args:
        plain: bool (P,), whether a cycle at the position is. seen: bool (P,), whether one begins there, see `visited`.
    """
    blocks = [slice(first, end) for first, end in zip(outcomes.starts[:-1], outcomes.starts[1:], strict=True)]
    return np.array(
        [
            catching_up(outcomes.begin, np.flatnonzero(there), plain[block][there], outcomes.lengths[block][there])
            for block in blocks
            for there in [seen[block]]
        ]
    )


def plain_total(outcomes: Outcomes) -> Total:
    """Plain decoding of the same."""
    seconds = outcomes.plain_seconds.sum(dtype=np.float64)
    return Total(outcomes.tokens, float(seconds), outcomes.positions)
