"""What the text itself proposes at recorded positions, and where the target's continuation ranks in the tree that this
makes with the head's candidates.

The text's candidates (`ltd.lookup`) follow from the tokens alone, so they are looked up, not recorded. One of them that
the head has made too, the same token below the same parent, is *merged*: it is the head's candidate, with the higher of
the two scores. All others are *appended* behind the head's, in their order. That is what `DraftTree.merge` does.

How much the head has drafted is the *stage* of a cycle: 0 … D expansions, or nothing at all. Stages are one axis,
d = 0 … D and then, as the last, d = -1, at which the text's candidates stand alone. At stage d a text candidate is
merged if its column, the head's candidate that it is merged with, is of a level up to d; else it is appended.

A child never scores above its parent in either source, and merging keeps that: where a child is merged, its parent is.
So gains follow from ranks here just as they do in the head's own trees, see `ltd_rl.traces.format`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Floats, Integers
from ltd.lookup import MAX_TEXT_DEPTH, TEXT_FEATURES, TextScores, TextSource
from ltd_rl.traces.arrays import NO_RANK
from ltd_rl.traces.format import RecordedGeneration, continuations, level_starts, taken_before

BLOCK = 512  # positions at once
Ranks = NDArray[np.uint16]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TextProposals:
    """The text's candidates at the P positions of a generation, T places for each; best first, parents first.

    Attributes:
        tokens: int64 (P, T). parents: int32 (P, T), text candidates, -1 = root. scores: float32 (P, T), in the head's
            units; -inf behind the last candidate. chances: float32 (P, T), to be right; 0 behind the last. counts:
            int32 (P,), candidates.
        features: float32 (P, TEXT_FEATURES), what policies read. cells: int32 (P, T), the evidence for each. Both as in
            `ltd.lookup.TextCandidates`.
    """

    tokens: Integers
    parents: NDArray[np.int32]
    scores: Floats
    chances: Floats
    counts: NDArray[np.int32]
    features: Floats
    cells: NDArray[np.int32]

    @property
    def most(self) -> int:
        """T."""
        return int(self.tokens.shape[1])

    @property
    def there(self) -> Flags:
        """bool (P, T): the places that hold a candidate."""
        filled: Flags = np.arange(self.most) < self.counts[:, None]
        return filled


def propose_everywhere(generation: RecordedGeneration, scores: TextScores, most: int) -> TextProposals:
    """Looks up at every position, as the decoder does where a cycle begins there.

    Args:
        generation: from the traces. scores: how likely looked-up tokens are; those for its temperature are used. most:
            T, 1 … 64.

    Raises:
        InputError: `most` out of range.
    """
    count, first = generation.positions, generation.prompt_length
    text = generation.tokens.tolist()
    found = TextProposals(
        tokens=np.zeros((count, most), dtype=np.int64),
        parents=np.full((count, most), -1, dtype=np.int32),
        scores=np.full((count, most), -np.inf, dtype=np.float32),
        chances=np.zeros((count, most), dtype=np.float32),
        counts=np.zeros(count, dtype=np.int32),
        features=np.zeros((count, TEXT_FEATURES), dtype=np.float32),
        cells=np.full((count, most), -1, dtype=np.int32),
    )
    source = TextSource(1, scores.at(generation.sampling.temperature), most)
    source.extend(0, text[:first])
    for position in range(count):
        seen = source.propose([text[first + position : first + position + 1]])  # the root
        there = seen.counts_list[0]
        found.counts[position] = there
        found.features[position] = seen.features[0].numpy()
        for name in ("tokens", "parents", "scores", "chances", "cells"):
            getattr(found, name)[position, :there] = getattr(seen, name)[0, :there].numpy()
    return found


def likeliest(proposals: TextProposals, most: int) -> TextProposals:
    """The first so many of the candidates at every position, as a lookup of fewer proposes them.

    What policies read is still of all.
    """
    names = ("tokens", "parents", "scores", "chances", "cells")
    kept = {name: getattr(proposals, name)[:, :most] for name in names}
    return replace(proposals, counts=np.minimum(proposals.counts, np.int32(most)), **kept)


# --- the continuation among the text's candidates ---


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """How the text's candidates compare with what the target wrote.

    Attributes:
        levels: int64 (P, T), tokens between a candidate and the root.
        reached: bool (P, T), candidates whose parent is on the target's continuation and the token after it known.
        right: bool (P, T), those of them that are on it themselves.
    """

    levels: Integers
    reached: Flags
    right: Flags

    @property
    def path(self) -> Integers:
        """int64 (P, MAX_TEXT_DEPTH): the text candidate of each level on the continuation, -1 = none."""
        path = np.full((len(self.levels), MAX_TEXT_DEPTH), -1, dtype=np.int64)
        rows, nodes = np.nonzero(self.right)
        path[rows, self.levels[rows, nodes]] = nodes
        return path


def follow_text(generation: RecordedGeneration, proposals: TextProposals) -> Followed:
    """Compares what was proposed with the rest of the answer."""
    rows, there = np.arange(generation.positions), proposals.there
    roots = generation.prompt_length + rows
    following = continuations(generation.tokens.astype(np.int64), roots, MAX_TEXT_DEPTH)
    levels = np.zeros(there.shape, dtype=np.int64)
    reached, right = np.zeros_like(there), np.zeros_like(there)
    for node in range(proposals.most):
        parents = proposals.parents[:, node]
        at_root, parents = parents < 0, np.maximum(parents, 0)
        levels[:, node] = np.where(at_root, 0, levels[rows, parents] + 1)
        wanted = following[rows, levels[:, node]]
        reached[:, node] = there[:, node] & (at_root | right[rows, parents]) & (wanted >= 0)
        right[:, node] = reached[:, node] & (proposals.tokens[:, node] == wanted)
    return Followed(levels, reached, right)


# --- the two sources together ---


def head_alone(generation: RecordedGeneration) -> tuple[Ranks, Integers]:
    """Where nothing is looked up: ranks uint16 (P, D + 2, D + 1), candidates int64 (1, D + 2), all stages as below."""
    nothing = np.full((generation.positions, 1, generation.depth + 1), NO_RANK, dtype=np.uint16)
    ranks = np.concatenate([generation.ranks, nothing], axis=1)
    return ranks, np.array([[*level_starts(generation.width, generation.depth + 1)[1:], 0]])


def head_columns(generation: RecordedGeneration, proposals: TextProposals) -> Integers:
    """int64 (P, T): the head's candidate of the full-depth tree that each text candidate is merged with; -1 = none.

    A candidate's children in the head's tree are those of its place in the beam, see `children_of`.
    """
    width, rows, there = generation.width, np.arange(generation.positions), proposals.there
    starts = np.array(level_starts(width, generation.depth + 1))
    first_child = children_of(generation)
    columns = np.full(there.shape, -1, dtype=np.int64)
    if generation.depth < 0:  # the head has none
        return columns
    for node in range(proposals.most):
        parents = proposals.parents[:, node]
        above = columns[rows, np.maximum(parents, 0)]
        first = np.where(parents < 0, starts[0], np.where(above < 0, -1, first_child[rows, above]))
        family = np.maximum(first, 0)[:, None] + np.arange(width)
        same = generation.candidates[rows[:, None], family] == proposals.tokens[:, node, None]
        found = there[:, node] & (first >= 0) & same.any(axis=1)
        columns[:, node] = np.where(found, first + same.argmax(axis=1), -1)
    return columns


def children_of(generation: RecordedGeneration) -> Integers:
    """int64 (P, C): the first of each candidate's children in the head's tree; -1 where it has none.

    Only the candidates in a level's beam have any, the best W of the level by (score descending, index ascending): the
    one in place r has those from r * W on in the level below.
    """
    width, starts = generation.width, level_starts(generation.width, generation.depth + 1)
    found = np.full(generation.scores.shape, -1, dtype=np.int64)
    for level in range(generation.depth):
        start, below = starts[level], starts[level + 1]
        beam = np.argsort(-generation.scores[:, start:below], axis=1, kind="stable")[:, :width]
        np.put_along_axis(found, start + beam, below + width * np.arange(width)[None], axis=1)
    return found


def parents_at(generation: RecordedGeneration, position: int) -> NDArray[np.int32]:
    """int32 (C,): the parents of the head's candidates at one position, as `DraftTree` has them; -1 = root."""
    width, starts = generation.width, level_starts(generation.width, generation.depth + 1)
    scores, parents = generation.scores[position], np.full(starts[-1], -1, dtype=np.int32)
    for level in range(generation.depth):
        start, below, end = starts[level : level + 3]
        beam = np.argsort(-scores[start:below], kind="stable")[:width]
        parents[below:end] = np.repeat(start + beam, width)
    return parents


def merge_levels(generation: RecordedGeneration, columns: Integers) -> Integers:
    """int64 (P, T): the stage from which on a text candidate is merged, the level of its column; D + 1 for never."""
    starts = level_starts(generation.width, generation.depth)
    levels = np.searchsorted(starts, columns, side="right") - 1
    return np.where(columns < 0, generation.depth + 1, levels)


def candidate_counts(generation: RecordedGeneration, proposals: TextProposals) -> Integers:
    """int64 (P, D + 2): candidates at every stage, the head's and those that are appended to them."""
    merged = merge_levels(generation, head_columns(generation, proposals))
    heads = level_starts(generation.width, generation.depth + 1)[1:]
    counts: Integers = appended(proposals.there, merged, generation.depth) + np.array([*heads, 0])
    return counts


def appended(chosen: Flags, merged: Integers, depth: int) -> Integers:
    """int64 (n, D + 2): how many of the chosen text candidates, bool (n, T), are appended at every stage.

    Args:
        merged: int64 (n, T), as `merge_levels` gives it. depth: D.
    """
    stages = [*range(depth + 1), -1]
    return np.stack([np.count_nonzero(chosen & (merged > stage), axis=1) for stage in stages], axis=1)


def merged_ranks(generation: RecordedGeneration, proposals: TextProposals) -> Ranks:
    """The ranks of the nodes of the target's continuation among all candidates, at every stage.

    Returns:
        uint16 (P, D + 2, L), [position, stage, level], L = max(D + 1, 16): how many candidates come before the node of
        that level, by (score descending, index ascending); 65535 where there is none.
    """
    columns = head_columns(generation, proposals)
    merged, path = merge_levels(generation, columns), follow_text(generation, proposals).path
    starts, levels = level_starts(generation.width, generation.depth), max(generation.depth + 1, MAX_TEXT_DEPTH)
    ranks = np.full((generation.positions, generation.depth + 2, levels), NO_RANK, dtype=np.uint16)
    for first in range(0, generation.positions, BLOCK):
        rows = slice(first, first + BLOCK)
        scores = raised(generation.scores[rows], columns[rows], proposals.scores[rows])
        both = BothSources(starts, scores, proposals.scores[rows], proposals.there[rows], merged[rows])
        for level in range(levels):
            if level <= generation.depth:
                both.rank_drafted(generation.path[rows, level].astype(np.int64), level, ranks[rows])
            if level < MAX_TEXT_DEPTH:
                both.rank_appended(path[rows, level], level, ranks[rows])
    return ranks


def raised(scores: Floats, columns: Integers, text_scores: Floats) -> Floats:
    """float32 (n, C): the head's scores, where text candidates are merged the higher ones of the two.

    Args:
        scores: float32 (n, C), the head's. columns: int64 (n, T), see `head_columns`. text_scores: float32 (n, T).
    """
    higher = np.array(scores)
    rows, nodes = np.nonzero(columns >= 0)
    np.maximum.at(higher, (rows, columns[rows, nodes]), text_scores[rows, nodes])
    return higher


@dataclass(frozen=True, slots=True, eq=False)
class BothSources:
    """The candidates of both sources at n positions.

    Attributes:
        starts: the first of the head's candidates of every level 0 … D.
        scores: float32 (n, C), the head's, raised. Those of a level do not depend on the stage: a text candidate that
            raises one is merged wherever that level is there.
        text_scores: float32 (n, T). there: bool (n, T). merged: int64 (n, T), see `merge_levels`.
    """

    starts: list[int]
    scores: Floats
    text_scores: Floats
    there: Flags
    merged: Integers

    @property
    def depth(self) -> int:
        """D."""
        return len(self.starts) - 1

    def rank_drafted(self, nodes: Integers, level: int, ranks: Ranks) -> None:
        """Ranks of the head's candidates of one level, int64 (n,), -1 = none, at the stages that have this level.

        Args:
            ranks: uint16 (n, D + 2, L), filled.
        """
        rows, _, score, before = taken_before(self.scores, nodes)
        others = self.there[rows] & (self.text_scores[rows] > score)  # of equals, the head's come first
        counts = self._counted(before) + appended(others, self.merged[rows], self.depth)
        ranks[rows, level:-1, level] = counts[:, level:-1]

    def rank_appended(self, nodes: Integers, level: int, ranks: Ranks) -> None:
        """Ranks of text candidates of one level, int64 (n,), -1 = none, at the stages where they are appended.

        Args:
            ranks: uint16 (n, D + 2, L), filled.
        """
        rows, node, score, earlier = taken_before(self.text_scores, nodes)
        counts = self._counted(self.scores[rows] >= score)
        counts += appended(self.there[rows] & earlier, self.merged[rows], self.depth)
        stages = np.array([*range(self.depth + 1), -1])
        there = stages < np.take_along_axis(self.merged[rows], node, axis=1)
        ranks[rows, :, level] = np.where(there, counts, ranks[rows, :, level])

    def _counted(self, before: Flags) -> Integers:
        """bool (m, C) → int64 (m, D + 2): how many of the head's candidates at every stage."""
        starts = np.array(self.starts, dtype=np.int64)
        drafted = np.add.reduceat(before, starts, axis=1, dtype=np.int64).cumsum(axis=1)
        return np.concatenate([drafted, np.zeros((len(before), 1), dtype=np.int64)], axis=1)
