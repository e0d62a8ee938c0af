"""What every decision would gain and cost at every position of recorded generations: traces and latencies together.

A decision is a stage and a step of a ladder of sizes. The stages are the depths 0 … D and, the last of their axis,
`NOT_ASKED`, -1: the head is not asked. That is a plain cycle, whatever the size; or, where tokens are looked up in the
text too, a cycle with what that proposes alone. Environments, the exact trainer and the optimum all read these
tables, so what one of them counts as gain or cost, the others do.

The draft reads the tokens that a cycle gained at the beginning of the next one. Their cost is counted here in the cycle
that gained them, so that a cycle's seconds depend on its own decision only; over a generation that is the same sum, but
for the first cycle's beginning taking the place of the last one's. What cycles without the head gain is read only if a
later cycle asks it again, so it is in no cycle's seconds: `catching_up` counts it.

A policy that may use what the text proposes looks it up in every cycle, so there the seconds of all cycles contain
that. What a tree costs more than its root is the same whoever proposed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.lookup import MAX_TEXT, TextScores
from ltd.tree import MAX_SIZE, NOT_ASKED, candidate_count
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.replay import gained
from ltd_rl.traces.text import TextProposals, candidate_counts, head_alone, merged_ranks, propose_everywhere

CostOf = Callable[[ArrayLike, ArrayLike], Doubles]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """P positions of G generations, one after the other; D + 2 stages, the last of them `NOT_ASKED`; S sizes.

    Attributes:
        width: beam width W.
        sizes: the ladder, ascending, (S,).
        starts: int64 (G + 1,), the first position of every generation, and P.
        lengths: int64 (P,), context lengths.
        gains: int64 (P, D + 2, S), tokens; the last cycle's end where the answer ends.
        seconds: float32 (P, D + 2, S), of a whole cycle.
        plain_seconds: float32 (P,), of a cycle of plain decoding.
        scores: float32 (P, C), cumulative log-probabilities of the candidates of levels 0 … D, level by level.
        states: float32 (P, H), the draft's states at the roots.
        begin: seconds of a draft's beginning, by the tokens that it has not read and the context length.
        text: float32 (P, 24), what is seen of the text's candidates, see `ltd.lookup.TextCandidates`; (P, 0) where the
            tables are of the head alone.
        max_text, text_scores: the most candidates of the text at a position, and how likely they were taken to be; 0
            and None of the head alone.
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
    text: Floats
    max_text: int = 0
    text_scores: TextScores | None = None

    @property
    def positions(self) -> int:
        """P."""
        return len(self.lengths)

    @property
    def depth(self) -> int:
        """D, the deepest decision; -1 where the traces are without a draft."""
        return int(self.gains.shape[1]) - 2

    @property
    def least_depth(self) -> int:
        """The first stage with sizes to choose among: `NOT_ASKED` where tokens are looked up, else 0."""
        return NOT_ASKED if self.max_text else 0

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


def named_width(width: int) -> int | None:
    """The beam width that a fixed policy names; a draft's own is EAGLE-3's and needs no name."""
    return None if width == DEFAULT_WIDTH else width


def check_same_width(latency: LatencyModel, width: int) -> None:
    """Raises InputError if latencies say that they are of another beam width than that of traces."""
    measured = latency.setup.get("width")
    if measured not in (None, width):
        raise InputError(
            f"the latencies were measured with the beam width {measured}, and the traces have {width}; "
            f"measure them with ltd calibrate --width {width}, or record traces with ltd record --width {measured}"
        )


def outcomes_of(
    generations: Sequence[RecordedGeneration],
    latency: LatencyModel,
    sizes: Sequence[int],
    depth: int | None = None,
    text: TextScores | None = None,
    most: int = MAX_TEXT,
) -> Outcomes:
    """The tables of some generations on the machine of a latency model.

    Args:
        generations: at least one position together; those without any are left out.
        latency: seconds.
        sizes: the ladder, ascending.
        depth: the deepest decision; None is as deep as the traces.
        text: how likely tokens are that are looked up in the text; None looks up none.
        most: candidates of the text at a position, 1 … 64.

    Raises:
        InputError: no positions; a ladder that does not ascend within 0 … 512, or that lacks 0, a plain cycle, where
            tokens are looked up; a depth beyond that of the traces; `most` out of range; traces without a draft,
            where nothing is looked up either; or latencies of another beam width.
    """
    kept = [generation for generation in generations if generation.positions > 0]
    if not kept:
        raise InputError("there is no cycle in these traces; record longer answers")
    deepest = min(generation.depth for generation in kept)
    depth = deepest if depth is None else depth
    if deepest < 0 and text is None:
        raise InputError("these traces are without a draft, so there is nothing to decide; record some with a head")
    if not min(0, deepest) <= depth <= deepest:
        known = f"0 … {deepest}" if deepest >= 0 else "no draft"
        raise InputError(f"depth {depth} is out of range; these traces know {known}")
    if deepest >= 0:
        check_same_width(latency, kept[0].width)
    ladder = checked_ladder(sizes)
    if text is not None and ladder[0] > 0:
        raise InputError(f"the sizes begin with {ladder[0]}; where tokens are looked up, they must begin with 0")
    proposals = [None if text is None else propose_everywhere(generation, text, most) for generation in kept]
    tables = [tables_of(g, found, latency, ladder, depth) for g, found in zip(kept, proposals, strict=True)]
    lengths = np.concatenate([lengths_of(generation) for generation in kept])
    seen = [np.zeros((len(lengths), 0), dtype=np.float32)] if text is None else [p.features for p in proposals if p]
    return Outcomes(
        width=kept[0].width,
        sizes=tuple(int(size) for size in ladder),
        starts=np.cumsum([0, *(generation.positions for generation in kept)]),
        lengths=lengths,
        gains=np.concatenate([gains for gains, _ in tables]),
        seconds=np.concatenate([seconds for _, seconds in tables]),
        plain_seconds=latency.plain(lengths).astype(np.float32),
        scores=np.concatenate([g.scores[:, : candidate_count(g.width, depth)] for g in kept]),
        states=np.concatenate([g.states for g in kept]).astype(np.float32),
        begin=latency.begin,
        text=np.concatenate(seen),
        max_text=0 if text is None else most,
        text_scores=text,
    )


def checked_ladder(sizes: Sequence[int]) -> Integers:
    """int64 (S,): the ladder. Raises InputError if it does not ascend within 0 … 512."""
    ladder = np.asarray(sizes)
    if ladder.ndim != 1 or not len(ladder) or ladder[0] < 0 or ladder[-1] > MAX_SIZE or np.any(np.diff(ladder) <= 0):
        raise InputError(
            f"the sizes {', '.join(map(str, sizes))} are no ladder; they must ascend within 0 … {MAX_SIZE}"
        )
    return ladder


def lengths_of(generation: RecordedGeneration) -> Integers:
    """int64 (P,): the context lengths at its positions."""
    return generation.prompt_length + np.arange(generation.positions)


def tables_of(
    generation: RecordedGeneration,
    proposals: TextProposals | None,
    latency: LatencyModel,
    sizes: Integers,
    depth: int,
) -> tuple[Integers, Floats]:
    """int64 and float32 (P, D + 2, S): gains and seconds of one generation's cycles, as in `Outcomes`.

    Args:
        proposals: what the text proposes, if it is looked up. sizes: int64 (S,), the ladder. depth: D.
    """
    if proposals is None:
        ranks, there = head_alone(generation)
    else:
        ranks, there = merged_ranks(generation, proposals), candidate_counts(generation, proposals)
    stages = [*range(depth + 1), NOT_ASKED]
    by_stage = [np.stack([gained(ranks, stage, int(size)) for size in sizes], axis=1) for stage in stages]
    gains, lengths = np.stack(by_stage, axis=1), lengths_of(generation)
    seconds = cycle_seconds(latency, lengths, gains, np.minimum(sizes, there[:, stages, None]))
    if proposals is not None:
        seconds += latency.lookup(lengths)[:, None, None]
    return gains, seconds.astype(np.float32)


def cycle_seconds(latency: LatencyModel, lengths: Integers, gains: Integers, verified: Integers) -> Doubles:
    """float64 (P, D + 2, S): what cycles cost, without looking anything up.

    Args:
        lengths: int64 (P,). gains: int64 (P, D + 2, S). verified: int64 (P or 1, D + 2, S), candidates.
    """
    depths, length = np.arange(gains.shape[1] - 1), lengths[:, None]
    drafted = latency.cycle(depths[:, None], verified[:, :-1], length[..., None], gains[:, :-1])
    tree, root = (latency.verify(size, length) + latency.other(size, length) for size in (verified[:, -1], 0))
    alone = np.broadcast_to(latency.plain(length) + (tree - root), gains[:, -1].shape)
    return np.concatenate([drafted, alone[:, None]], axis=1)


def verified_sizes(width: int, depth: int, sizes: Integers) -> Integers:
    """int64 (D + 1, S): the sizes (S,) after 0 … `depth` expansions, cut at the candidates that the head has made."""
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
        text=outcomes.text[rows],
        max_text=outcomes.max_text,
        text_scores=outcomes.text_scores,
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
        depths: one, or (P,); `NOT_ASKED` does not ask the head. steps: of the ladder, one or (P,).
    """
    rows = np.arange(outcomes.positions)
    seen = visited(outcomes.gains[rows, depths, steps], outcomes.starts)
    seconds = float(outcomes.seconds[rows, depths, steps][seen].sum(dtype=np.float64))
    silent = np.broadcast_to(np.equal(depths, NOT_ASKED), rows.shape)
    if silent.any():
        seconds += float(all_catching_up(outcomes, silent, seen).sum())
    return Total(outcomes.tokens, seconds, int(seen.sum()))


def reading_more(begin: CostOf, unread: ArrayLike, more: ArrayLike, lengths: ArrayLike) -> Doubles:
    """Seconds that a draft's beginning takes longer for `more` tokens beside the `unread` ones; all broadcast."""
    return begin(np.add(unread, more), lengths) - begin(unread, lengths)


def reading_after(outcomes: Outcomes) -> Floats:
    """float32 (P, S): what the draft takes longer to read what stage -1 gains, if it is asked right after.

    For trainers that look at one cycle at a time: its seconds do not contain this, see `catching_up`.
    """
    found = reading_more(outcomes.begin, 1, outcomes.gains[:, NOT_ASKED], outcomes.lengths[:, None])
    return found.astype(np.float32)


def catching_up(begin: CostOf, positions: Integers, silent: NDArray[np.bool_], lengths: Integers) -> float:
    """Seconds that the draft of one generation takes to read what cycles without it gained, as far as it drafts again.

    Args:
        begin: as in `Outcomes`.
        positions: int64 (n,), of the generation's cycles, in order, from 0.
        silent: bool (n,), in which of them the draft is not asked.
        lengths: int64 (n,), context lengths.
    """
    if silent.all():
        return 0.0
    # A draft has read all tokens up to the root of its last cycle; before the first, all but the prefill's.
    read = np.maximum.accumulate(np.where(silent, -1, positions))
    unread = positions - np.concatenate([[-1], read[:-1]])
    counts = np.flatnonzero(silent & (positions < read[-1]))  # another cycle comes after each
    gains = positions[counts + 1] - positions[counts]
    return float(reading_more(begin, unread[counts], gains, lengths[counts]).sum())


def all_catching_up(outcomes: Outcomes, silent: NDArray[np.bool_], seen: NDArray[np.bool_]) -> Doubles:
    """float64 (G,): `catching_up` of every generation.

    Args:
        silent: bool (P,), whether the draft is not asked in a cycle at the position.
        seen: bool (P,), whether one begins there, see `visited`.
    """
    blocks = [slice(first, end) for first, end in zip(outcomes.starts[:-1], outcomes.starts[1:], strict=True)]
    return np.array(
        [
            catching_up(outcomes.begin, np.flatnonzero(there), silent[block][there], outcomes.lengths[block][there])
            for block in blocks
            for there in [seen[block]]
        ]
    )


def plain_total(outcomes: Outcomes) -> Total:
    """Plain decoding of the same."""
    seconds = outcomes.plain_seconds.sum(dtype=np.float64)
    return Total(outcomes.tokens, float(seconds), outcomes.positions)
