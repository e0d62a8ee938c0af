"""The text's candidates at recorded positions as the controller sees them: beside the head's, at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.lookup import TextScores
from ltd.policies.controller_parts import BOTH, FOLLOWS, MISSED, NO_COLUMN, TextSeen, bins_of, bins_of_chances
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.text import TextProposals, follow_text, head_columns, propose_everywhere

NEVER = 99  # a level that no tree has


@dataclass(frozen=True, slots=True, eq=False)
class TextPlaces:
    """The text's candidates at P positions, T places for each.

    Attributes:
        scores, chances, counts, features: as in `TextSeen`, n = P.
        columns: int64 (P, T), the head's candidate of the recorded tree that each is as well; below 0 for none.
        levels: int64 (P, T), tokens between a candidate and the root.
        lost: int64 (P, T), the level at which its path leaves the recorded tree; `NEVER` where it does not.
        right: bool (P, T), those on the target's continuation.
    """

    scores: Floats
    chances: Doubles
    counts: Integers
    features: Doubles
    columns: Integers
    levels: Integers
    lost: Integers
    right: NDArray[np.bool_]

    @property
    def there(self) -> NDArray[np.bool_]:
        """bool (P, T): the places that hold a candidate."""
        filled: NDArray[np.bool_] = np.arange(self.scores.shape[1]) < self.counts[:, None]
        return filled

    def merged(self, depth: int) -> Integers:
        """int64 (P, T): the head's candidate of a tree of this depth that each is as well; below 0 for none."""
        return np.where(self.levels <= depth, self.columns, NO_COLUMN)

    def seen(self, depth: int) -> TextSeen:
        """What is seen of them beside a tree of this depth, -1 … D."""
        return TextSeen(
            scores=self.scores,
            chances=self.chances,
            counts=self.counts,
            columns=self.merged(depth),
            kinds=np.where(self.lost <= depth, MISSED, FOLLOWS),
            features=self.features,
        )


def places_of(generations: Sequence[RecordedGeneration], scores: TextScores, most: int) -> TextPlaces:
    """Looks up at all positions of some generations, one after the other.

    Args:
        generations: from the traces. scores: how likely looked-up tokens are. most: T, 1 … 64.
    """
    parts = [placed(generation, propose_everywhere(generation, scores, most)) for generation in generations]
    return TextPlaces(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in TextPlaces.__dataclass_fields__}
    )


def placed(generation: RecordedGeneration, proposals: TextProposals) -> TextPlaces:
    """Of one generation."""
    followed, columns = follow_text(generation, proposals), head_columns(generation, proposals)
    lost, rows = np.full(columns.shape, NEVER), np.arange(len(columns))
    for node in range(proposals.most):
        parents = proposals.parents[:, node]
        above = np.where(parents < 0, NEVER, lost[rows, np.maximum(parents, 0)])
        here = np.where(columns[:, node] < 0, followed.levels[:, node], NEVER)
        lost[:, node] = np.minimum(above, here)
    return TextPlaces(
        scores=proposals.scores,
        chances=proposals.chances.astype(np.float64),
        counts=proposals.counts.astype(np.int64),
        features=proposals.features.astype(np.float64),
        columns=columns,
        levels=followed.levels,
        lost=lost,
        right=followed.right,
    )


def tallies(places: TextPlaces, scores: Floats, depth: int) -> list[tuple[Integers, Integers]]:
    """By kind of `ltd.policies.controller_parts`, in order: the bins of all candidates that are ever of it, and of
    those of them that are on the target's path.

    Args:
        scores: float32 (P, C), the head's, of levels 0 … `depth`.
    """
    there, columns = places.there, places.merged(depth)
    leaves = np.minimum(
        np.where(columns >= 0, places.levels, NEVER), places.lost
    )  # from this depth on it is no FOLLOWS
    rows, nodes = np.nonzero(there & (columns >= 0))
    higher = np.fmax(scores[rows, columns[rows, nodes]], places.scores[rows, nodes])
    bins, kinds = (
        bins_of_chances(places.chances),
        {MISSED: there & (places.lost <= depth), FOLLOWS: there & (leaves > 0)},
    )
    found = {kind: (bins[mask], bins[mask & places.right]) for kind, mask in kinds.items()}
    found[BOTH] = bins_of(higher), bins_of(higher[places.right[rows, nodes]])
    return [found[kind] for kind in sorted(found)]
