"""The best fixed tree with tokens of the text in it, `Both`, by replay.

What a rule decides follows from the text's candidates at a position, so all positions are decided at once. A lookup of
fewer candidates proposes the first of those of more, so the text is looked up once for all rules. The draft's part of a
tree is tried up to the best static tree, as the text's tokens stand in for some of its own: small on a small machine,
deep and large where a forward of many costs about as much as one of few. Without a draft there is
`ltd_rl.baselines.lookup_search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from tqdm import tqdm

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Both, Lookup
from ltd.tree import NOT_ASKED
from ltd_rl.traces.format import RecordedGeneration, shallow
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Total, catching_up, lengths_of, outcomes_of, visited
from ltd_rl.traces.replay import stages_of
from ltd_rl.traces.text import Ranks, TextProposals, likeliest, propose_everywhere

DEEPEST = 3  # depths up to this one are tried on every machine


@dataclass(frozen=True, slots=True)
class Grid:
    """Numbers of rules to choose among; their depths are all from 0.

    Attributes:
        texts: candidates that the text may add, ascending.
        sizes: candidates besides those, ascending; where larger trees pay, larger ones too, see `rules`.
        alone: how likely the text's best must be for the draft not to be asked.
    """

    texts: tuple[int, ...]
    sizes: tuple[int, ...]
    alone: tuple[float, ...]

    def rules(self, deepest: int, largest: int) -> list[Both]:
        """All of them with depths up to `deepest`, and besides the grid's sizes those of the ladder up to `largest`."""
        sizes = (*self.sizes, *(size for size in EVERY_SIZE if self.sizes[-1] < size <= largest))
        return [
            Both(depth, size, text, chance)
            for text, depth, size, chance in product(self.texts, range(deepest + 1), sizes, self.alone)
        ]


FINE = Grid((2, 4, 8, 12, 16, 24), (0, 1, 2, 3, 4, 6, 8), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class TextGround:
    """What rules with the same number of text candidates, T, would gain at P positions of some generations.

    Attributes:
        latency: the machine's.
        starts: int64 (G + 1,), the first position of every generation, and P.
        lengths: int64 (P,), context lengths.
        chances: float32 (P, T), of the text's candidates, best first; 0 where there is none.
        ranks: uint16 (P, D + 2, L). there: int64 (P, D + 2), candidates. Both by stage, see `ltd_rl.traces.text`.
    """

    latency: LatencyModel
    starts: Integers
    lengths: Integers
    chances: Floats
    ranks: Ranks
    there: Integers


def best_both(
    generations: Sequence[RecordedGeneration],
    latency: LatencyModel,
    scores: TextScores,
    grid: Grid | None = None,
) -> tuple[Both, Total]:
    """The rule with the most tokens per second on these generations, and what it comes to; of equals, the first.

    Shows a progress bar.

    Args:
        generations: from the traces, of a head. latency: the machine's. scores: how likely looked-up tokens are. grid:
            of rules to choose among; None is `FINE`.

    Raises:
        InputError: there is no position, or no head.
    """
    kept = with_positions(generations)
    recorded = min(generation.depth for generation in kept)
    if recorded < 0:
        raise InputError("these traces are without a draft, so there is no tree for the text to stand in; use Lookup")
    depth, step, _ = best_static(outcomes_of(kept, latency, EVERY_SIZE))
    deepest = min(recorded, max(depth, DEEPEST))
    kept = [shallow(generation, deepest) for generation in kept]
    rules = (grid or FINE).rules(deepest, EVERY_SIZE[step])
    texts = sorted({rule.text for rule in rules})
    proposals = [propose_everywhere(generation, scores, texts[-1]) for generation in kept]
    found = []
    with tqdm(total=len(rules), unit="rule", desc="replaying") as progress:
        for text in texts:
            ground = ground_of_text(kept, [likeliest(proposed, text) for proposed in proposals], latency)
            for rule in rules:
                if rule.text == text:
                    found.append((rule, spent(ground, *rule_decisions(rule, ground.chances))))
                    progress.update()
    return max(found, key=lambda entry: entry[1].throughput)


def total_of_rule(
    rule: Lookup | Both, generations: Sequence[RecordedGeneration], latency: LatencyModel, scores: TextScores
) -> Total:
    """What one rule comes to; raises InputError if there is no position."""
    kept = [shallow(generation, max(rule.max_depth, 0)) for generation in with_positions(generations)]
    ground = ground_of_text(kept, [propose_everywhere(each, scores, rule.max_text) for each in kept], latency)
    return spent(ground, *rule_decisions(rule, ground.chances))


def with_positions(generations: Sequence[RecordedGeneration]) -> list[RecordedGeneration]:
    """Those that have any; raises InputError if there are none."""
    kept = [generation for generation in generations if generation.positions > 0]
    if not kept:
        raise InputError("there is no cycle in these traces; record longer answers")
    return kept


def rule_decisions(rule: Lookup | Both, chances: Floats) -> tuple[Integers, Integers]:
    """int64 (P,) each: depth, `NOT_ASKED` without the draft, and size that a rule decides on.

    Args:
        chances: float32 (P, T), of the text's candidates, at least as many as the rule looks up.
    """
    text = np.count_nonzero(chances[:, : rule.max_text] > np.float32(rule.least), axis=1)
    if isinstance(rule, Lookup):
        return np.full(len(text), NOT_ASKED), text
    silent = (chances[:, 0] >= np.float32(rule.alone)) & (rule.alone < 1.0)
    return np.where(silent, NOT_ASKED, rule.depth), text + np.where(silent, 0, rule.size)


def spent(ground: TextGround, depths: Integers, sizes: Integers) -> Total:
    """What deciding so at every position comes to, as `Outcomes` would count it."""
    rows, starts, latency = np.arange(len(depths)), ground.starts, ground.latency
    accepted = np.count_nonzero(ground.ranks[rows, depths] < sizes.astype(np.uint16)[:, None], axis=1)
    ends = np.repeat(starts[1:], np.diff(starts))
    gains = np.minimum(1 + accepted, ends - rows)
    seen = np.flatnonzero(visited(gains, starts))
    depth, gain, length = depths[seen], gains[seen], ground.lengths[seen]
    size, silent = np.minimum(sizes[seen], ground.there[seen, depth]), depth == NOT_ASKED
    tree = latency.verify(size, length) + latency.other(size, length)
    root = latency.verify(0, length) + latency.other(0, length)
    begun = np.where(silent, latency.plain(length) - root, latency.draft(np.maximum(depth, 0), length, gain))
    seconds = float((begun + tree + latency.lookup(length)).sum())
    for first, end in pairwise(starts.tolist()):
        here = slice(*np.searchsorted(seen, (first, end)))
        if silent[here].any():
            seconds += catching_up(latency.begin, seen[here] - first, silent[here], length[here])
    return Total(len(rows), seconds, len(seen))


def ground_of_text(
    generations: Sequence[RecordedGeneration], proposals: Sequence[TextProposals], latency: LatencyModel
) -> TextGround:
    """The ground of generations that all have positions, with what is looked up there."""
    stages = [stages_of(generation, proposed) for generation, proposed in zip(generations, proposals, strict=True)]
    ranks, there = (np.concatenate(parts) for parts in zip(*stages, strict=True))
    return TextGround(
        latency=latency,
        starts=np.cumsum([0, *(generation.positions for generation in generations)]),
        lengths=np.concatenate([lengths_of(generation) for generation in generations]),
        chances=np.concatenate([proposed.chances for proposed in proposals]),
        ranks=ranks,
        there=there,
    )
