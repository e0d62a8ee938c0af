"""What the controller reads candidates by: tables of chances by score, and the text's candidates beside the draft's.

Who proposes a candidate says much about it. One that both propose is likelier than the same score of one alone; one
that the text proposes and the draft lacks, though it has drafted so deep, is less likely; and one deeper than the draft
has drafted, which follows on what both propose, more. So each of these kinds has a table of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, TextScores
from ltd.tree import DraftTree

BINS, BINS_PER_NAT = 512, 32
MISSED, FOLLOWS, BOTH = range(3)
KINDS = 3
NO_COLUMN = -2  # what no candidate has as its parent: -1 is the root


# --- scores and chances ---


def bins_of(scores: Floats) -> Integers:
    """The bin of every score: 0 holds the best, down to BINS - 1 for all below -BINS / BINS_PER_NAT, and NaN."""
    known = np.fmax(np.fmin(-scores * np.float32(BINS_PER_NAT), np.float32(BINS - 1)), np.float32(0))
    bins: Integers = known.astype(np.int64)
    return bins


def bins_of_chances(chances: Doubles) -> Integers:
    """The bin of every chance, 0 … 1, in equal steps: 0 holds the best."""
    bins: Integers = BINS - 1 - np.minimum(chances * BINS, BINS - 1).astype(np.int64)
    return bins


def level_of_candidates(width: int, depth: int) -> Integers:
    """int64 (C,): the levels of the draft's candidates in a tree of that depth; none at -1."""
    counts = np.array([width, *[width * width] * depth][: depth + 1], dtype=np.int64)
    return np.repeat(np.arange(depth + 1), counts)


def ranked(scores: Floats, chances: Doubles, most: int) -> tuple[Floats, Doubles]:
    """Scores (n, c) and chances (n, c) of the `most` best, by (score descending, index ascending) as the tree selects.

    It is enough to give the best of the levels before, in their order, and then the newest level.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    rows = np.arange(len(order))[:, None]
    return scores[rows, order], chances[rows, order]


# --- the text ---


@dataclass(frozen=True, slots=True, eq=False)
class TextTables:
    """What a controller knows of the text's candidates; N is its largest size, T that of lengths with known costs.

    Args:
        most: candidates of a tree at most, 1 … 64.
        scores: how likely they are, as they are looked up.
        chances: float64 (KINDS, BINS), the probability to be on the target's path: of those that the draft lacks
            (`MISSED`) and of those deeper than it has drafted (`FOLLOWS`), by `bins_of_chances` of what the lookup
            says; of those that it has too (`BOTH`), by `bins_of` the better score.
        more: float64 (N + 1, T), seconds that verifying so many candidates takes longer than verifying none.

    Raises:
        InputError: a number out of range, or tables that do not go together.
    """

    most: int
    scores: TextScores
    chances: Doubles
    more: Doubles

    def __post_init__(self) -> None:
        if not 1 <= self.most <= MAX_TEXT:
            raise InputError(f"a controller's {self.most} text candidates are out of range; it must be 1 … {MAX_TEXT}")
        if self.chances.shape != (KINDS, BINS) or not np.all((self.chances >= 0) & (self.chances <= 1)):
            raise InputError(f"a controller's text.chances must be {KINDS} rows of {BINS} numbers of 0 … 1")

    def with_both(self, scores: Floats, chances: Doubles, columns: Integers, texts: Floats) -> tuple[Floats, Doubles]:
        """The draft's scores and chances (n, c) where some of its candidates are the text's as well.

        Args:
            columns: int64 (n, T), which candidate each of the text's is; below 0 for none. texts: float32 (n, T), the
                text's scores.
        """
        rows, places = np.nonzero(columns >= 0)
        if not len(rows):
            return scores, chances
        at = columns[rows, places]
        scores, chances = scores.copy(), chances.copy()
        scores[rows, at] = np.fmax(scores[rows, at], texts[rows, places])
        chances[rows, at] = self.chances[BOTH, bins_of(scores[rows, at])]
        return scores, chances

    def beside(self, seen: TextSeen) -> tuple[Floats, Doubles]:
        """Scores and chances (n, T) of the text's candidates beside the draft's; -inf and 0 where there is none."""
        apart = seen.apart
        chances = self.chances[seen.kinds, bins_of_chances(seen.chances)]
        return np.where(apart, seen.scores, np.float32(-np.inf)), np.where(apart, chances, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class TextSeen:
    """The text's candidates in n cycles of the same depth, T places for each, beside the draft's.

    Attributes:
        scores: float32 (n, T). chances: float64 (n, T), to be right, as they were looked up; 0 where there is none.
        counts: int64 (n,), candidates.
        columns: int64 (n, T), the draft's candidate that each is as well; below 0 for none.
        kinds: int64 (n, T), of those that are none, `MISSED` or `FOLLOWS`.
        features: float64 (n, TEXT_FEATURES), see `ltd.lookup.TextCandidates`.
    """

    scores: Floats
    chances: Doubles
    counts: Integers
    columns: Integers
    kinds: Integers
    features: Doubles

    @property
    def apart(self) -> NDArray[np.bool_]:
        """bool (n, T): which the draft has not made."""
        there: NDArray[np.bool_] = np.arange(self.scores.shape[1]) < self.counts[:, None]
        return there & (self.columns < 0)


def text_seen(tree: DraftTree, candidates: int, depth: int) -> TextSeen:
    """What a tree's text proposes beside the first `candidates` of the draft, those of levels 0 … `depth`."""
    text = tree.text
    assert text is not None, "there is no text to look at"
    tokens, parents = text.tokens.tolist(), text.parents.tolist()
    columns = np.full((len(tokens), text.tokens.shape[1]), NO_COLUMN)
    kinds = np.full(columns.shape, FOLLOWS)
    if depth >= 0:
        drafted = tree.parents[:, :candidates].tolist(), tree.tokens[:, :candidates].tolist()
        for row, count in enumerate(text.counts_list):
            own = zip(parents[row][:count], tokens[row][:count], strict=True)
            first = first_places(drafted[0][row], drafted[1][row])
            columns[row, :count], kinds[row, :count] = found_places(own, first, depth)
    return TextSeen(
        scores=text.scores.cpu().numpy(),
        chances=text.chances.cpu().numpy().astype(np.float64),
        counts=np.array(text.counts_list),
        columns=columns,
        kinds=kinds,
        features=text.features.cpu().numpy().astype(np.float64),
    )


def first_places(parents: Sequence[int], tokens: Sequence[int]) -> dict[tuple[int, int], int]:
    """The first of the draft's candidates of every token below every parent, by (parent, token)."""
    keys = zip(reversed(parents), reversed(tokens), strict=True)
    return dict(zip(keys, range(len(tokens) - 1, -1, -1), strict=True))


def found_places(
    candidates: Iterable[tuple[int, int]], first: dict[tuple[int, int], int], depth: int
) -> tuple[list[int], list[int]]:
    """Of the text's candidates, (parent, token) in order: the draft's that each is, or `NO_COLUMN`; and the kinds.

    Args:
        first: see `first_places`. depth: to which the draft has drafted.
    """
    columns: list[int] = []
    kinds: list[int] = []
    levels: list[int] = []
    for parent, token in candidates:
        above, level = (-1, 0) if parent < 0 else (columns[parent], levels[parent] + 1)
        column = first.get((above, token), NO_COLUMN)
        if column >= 0:
            kinds.append(BOTH)
        elif above == NO_COLUMN:
            kinds.append(kinds[parent])
        else:
            kinds.append(MISSED if level <= depth else FOLLOWS)
        columns.append(column)
        levels.append(level)
    return columns, kinds
