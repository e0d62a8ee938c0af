"""A controller without networks: expected gain from calibrated scores, set against measured costs.

A table tells how likely a candidate of a level is on the target's own path, by its score. The expected gain of depth D
and size V is then

    E(D, V) = a + b * Σ chances of the V best-scored candidates of depth D,     1 <= E <= D + 2,

where a and b, of every D and V, make up for what the chances do not know of each other (they are near 1),
and with cost(D, V, L) in seconds a cycle at context length L is worth

    E - rate * cost, with the rate (tokens per second) that is reached in the long run, or E / cost without a rate.

When drafting has stopped, the size of the greatest worth is verified. Before that, the worth of going on is predicted:
a linear function for every depth of what is known now. `ltd_rl.baselines.controller_fit` fits all tables to traces.

A controller over both sources counts the V best of the text's candidates and the draft's together, merged as the tree
merges them, and its predictions read what the text proposes as well. It is first asked at depth -1: the best worth of
the text's candidates alone against the predicted worth of drafting. There the tables have one row more, the last.

Looking at a level takes 40 to 55 µs of NumPy on one core of a server, once per level; the size is then known as well.
With 32 candidates of the text beside the draft's it takes two to three times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.argument_types import as_whole, as_wholes, settle
from ltd.common.arrays import Doubles
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT_DEPTH, TEXT_FEATURES, TextScores
from ltd.policies.controller_parts import (
    BINS,
    TextSeen,
    TextTables,
    bins_of,
    level_of_candidates,
    ranked,
    text_seen,
)
from ltd.policies.cycle_costs import between_lengths
from ltd.tree import MAX_SIZE, DraftTree, candidate_count, check_tree_limits

FEATURES = 6


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedGain:
    """The controller; D is the deepest tree, S the number of sizes, T that of lengths with known costs.

    Args:
        width: beam width W that it was fitted for.
        sizes: what it chooses from, ascending, from 1 on; with text from 0 on.
        chances: float64 (D + 1, BINS), by level and `bins_of` the score: the probability to be on the target's path.
        trust: float64 (2, D + 1, S), a and b; with text (2, D + 2, S).
        lengths: float64 (T,), context lengths, ascending.
        costs: float64 (D + 1, S, T), seconds of a cycle; linear in the length between, constant outside. With text
            (D + 2, 1, T), of one that verifies nothing: how many a size comes to depends on how many there are.
        ahead: float64 (D, FEATURES): what `features` of a depth predict of the worth of going on; with text
            (D + 1, FEATURES + TEXT_FEATURES).
        rate: tokens per second that a second is worth; None: the worth is tokens per second of the cycle itself.
        drafts: False if plain decoding is worth more.
        text: what it knows of the text's candidates; None leaves the draft's alone.

    Raises:
        InputError: parts that do not go together.

    Attributes:
        looked: what was seen last and how it was judged, as the size is asked for where drafting has just stopped.
    """

    width: int
    sizes: tuple[int, ...]
    chances: Doubles
    trust: Doubles
    lengths: Doubles
    costs: Doubles
    ahead: Doubles
    rate: float | None
    drafts: bool = True
    text: TextTables | None = None
    looked: list[tuple[tuple[int, tuple[bytes, ...]], tuple[Doubles, Doubles]]] = field(
        default_factory=list, init=False, repr=False
    )

    def __post_init__(self) -> None:
        settle(self, as_whole, "width")
        settle(self, as_wholes, "sizes")
        levels, ladder, least = len(self.chances), np.asarray(self.sizes), 1 if self.text is None else 0
        check_tree_limits(self.width, levels - 1, 0, self.max_text)
        if not len(ladder) or ladder[0] < least or ladder[-1] > MAX_SIZE or np.any(np.diff(ladder) <= 0):
            raise InputError(f"a controller's sizes {list(self.sizes)} must ascend within {least} … {MAX_SIZE}")
        if self.lengths.ndim != 1 or not len(self.lengths) or np.any(np.diff(self.lengths) <= 0):
            raise InputError("a controller's lengths must ascend")
        for name, table, shape in self._tables(levels, len(ladder), len(self.lengths)):
            if table.shape != shape or not np.isfinite(table).all():
                raise InputError(f"a controller's {name} must be finite numbers of shape {shape}, not {table.shape}")
        if np.any(self.costs <= 0) or (self.rate is not None and not self.rate > 0):
            raise InputError("a controller's costs and rate must be positive")
        if self.text is not None and np.any(self.text.more < 0):
            raise InputError("a controller's text.more must not be negative")

    def _tables(self, levels: int, sizes: int, lengths: int) -> list[tuple[str, Doubles, tuple[int, ...]]]:
        """Names, tables, and the shapes that they must have."""
        found: list[tuple[str, Doubles, tuple[int, ...]]] = [("chances", self.chances, (levels, BINS))]
        if self.text is None:
            stages, priced, inputs = levels, sizes, FEATURES
        else:
            stages, priced, inputs = levels + 1, 1, FEATURES + TEXT_FEATURES
            found.append(("text.more", self.text.more, (self.max_size + 1, lengths)))
        return [
            *found,
            ("trust", self.trust, (2, stages, sizes)),
            ("costs", self.costs, (stages, priced, lengths)),
            ("ahead", self.ahead, (stages - 1, inputs)),
        ]

    @property
    def max_depth(self) -> int:
        """D."""
        return len(self.chances) - 1

    @property
    def max_size(self) -> int:
        """The largest size."""
        return self.sizes[-1]

    @property
    def max_text(self) -> int:
        """The most candidates of the text, 0 of a controller over the draft alone."""
        return 0 if self.text is None else self.text.most

    @property
    def needs_draft(self) -> bool:
        """Always: all its tables are of cycles beside a head."""
        return True

    @property
    def text_scores(self) -> TextScores | None:
        """How likely the text's candidates are, as they are to be looked up."""
        return None if self.text is None else self.text.scores

    # --- the questions of a policy; a batch decides what is best for the mean of its sequences ---

    def start(self, batch: int) -> ExpectedGain:
        """Itself: it keeps nothing between cycles."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing to drop."""

    def speculate(self, lengths: torch.Tensor, gained: Sequence[int] = ()) -> bool:
        """As it was found to pay on the traces."""
        return self.drafts

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether going on is predicted to be worth more than the best size now; at -1, than the text alone."""
        worth, features = self._look(tree, depth)
        return bool(self.going_on(features, depth).mean() > worth.max(axis=1).mean())

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size that is worth most."""
        worth, _ = self._look(tree, depth)
        return self.sizes[int(worth.mean(axis=0).argmax())]

    def _look(self, tree: DraftTree, depth: int) -> tuple[Doubles, Doubles]:
        """`judge` of what a tree holds."""
        if depth >= 0 and tree.width != self.width:
            raise InputError(
                f"the controller was fitted for beam width {self.width}, but the draft's is {tree.width}; fit another"
            )
        count = candidate_count(self.width, depth)
        parts = [tree.lengths, tree.scores[:, :count]]
        if self.text is not None:
            assert tree.text is not None, "what the text proposes was not looked up"
            parts += [tree.tokens[:, :count], tree.parents[:, :count]]
            parts += [tree.text.tokens, tree.text.parents, tree.text.chances, tree.text.features]
        key = (depth, tuple(part.cpu().numpy().tobytes() for part in parts))
        kept = self.looked[:1]  # once: other threads may ask the same controller meanwhile
        if not kept or kept[0][0] != key:
            kept = [(key, self._judged(tree, count, depth))]
            self.looked[:] = kept
        return kept[0][1]

    def _judged(self, tree: DraftTree, count: int, depth: int) -> tuple[Doubles, Doubles]:
        """The same, worked out anew for the first `count` candidates of the draft."""
        scores, lengths = tree.scores[:, :count].cpu().numpy(), tree.lengths.cpu().numpy()
        levels = level_of_candidates(self.width, depth)
        chances = self.chances[levels, bins_of(scores)]
        if self.text is None:
            best = ranked(scores, chances, self.max_size)[1]
            return self.judge(best, chances[:, levels == depth], lengths, depth)
        seen = text_seen(tree, count, depth)
        scores, chances = self.text.with_both(scores, chances, seen.columns, seen.scores)
        best = self.best_of_both(scores, chances, seen, depth)
        return self.judge(best, chances[:, levels == depth], lengths, depth, seen)

    # --- the same for any number of cycles at once, n, of the same depth ---

    def best_of_both(self, scores: NDArray[np.float32], chances: Doubles, seen: TextSeen, depth: int) -> Doubles:
        """float64 (n, m): the chances of the best candidates of both sources, in order; up to `max_size`.

        Args:
            scores, chances: (n, c), of the draft's, as `TextTables.with_both` leaves them; or of the best of them, in
                order. seen: the text's.
        """
        if depth < 0:
            return seen.chances[:, : self.max_size]
        assert self.text is not None
        text_scores, text_chances = self.text.beside(seen)
        scores = np.concatenate([scores, text_scores], axis=1)
        return ranked(scores, np.concatenate([chances, text_chances], axis=1), self.max_size)[1]

    def judge(
        self, best: Doubles, newest: Doubles, lengths: NDArray[Any], depth: int, seen: TextSeen | None = None
    ) -> tuple[Doubles, Doubles]:
        """What every size is worth, and what predicts the worth of going on.

        Args:
            best: (n, m), the chances of the best-scored candidates, in order; up to `max_size`.
            newest: (n, W or W²), the chances of the newest level; (n, 0) at depth -1.
            lengths: (n,), context lengths.
            seen: what the text proposes; only with tables for it.

        Returns:
            worth (n, S) and features, see `features`.
        """
        worth = self.worth(self.expected(best, depth), self.cost(lengths, depth, seen))
        read = None if seen is None else seen.features
        return worth, features(worth.max(axis=1), newest.sum(axis=1), newest.max(axis=1, initial=0.0), read)

    def expected(self, best: Doubles, depth: int) -> Doubles:
        """float64 (n, S): the expected gain of every size, from the chances (n, m) of the best candidates."""
        sums = np.zeros((len(best), best.shape[1] + 1))
        np.cumsum(best, axis=1, out=sums[:, 1:])
        add, times = self.trust[:, depth]
        most = depth + 2.0 if self.text is None else MAX_TEXT_DEPTH + 1.0
        places = np.minimum(self.sizes, best.shape[1])
        gains: Doubles = np.minimum(np.maximum(add + times * sums[:, places], 1.0), most)
        return gains

    def cost(self, lengths: NDArray[Any], depth: int, seen: TextSeen | None = None) -> Doubles:
        """float64 (n, S): seconds of cycles of every size at context lengths (n,); seen: see `judge`."""
        seconds = self._at(self.costs[depth], lengths)
        if self.text is None or seen is None:
            return seconds
        there = candidate_count(self.width, depth) + seen.apart.sum(axis=1)
        verified = np.minimum(self.sizes, there[:, None])
        return seconds + np.take_along_axis(self._at(self.text.more, lengths), verified, axis=1)

    def _at(self, table: Doubles, lengths: NDArray[Any]) -> Doubles:
        """(m, T) → float64 (n, m): seconds at context lengths (n,)."""
        return between_lengths(self.lengths, table, lengths)

    def worth(self, gain: NDArray[Any], seconds: NDArray[Any]) -> Doubles:
        """What cycles are worth: see this file's head."""
        found: Doubles = gain / seconds if self.rate is None else gain - self.rate * seconds
        return found

    def going_on(self, features: Doubles, depth: int) -> Doubles:
        """float64 (n,): the predicted worth of expanding once more, after `depth` expansions, and then the best."""
        predicted: Doubles = (features * self.ahead[depth]).sum(axis=1)
        return predicted

    def __str__(self) -> str:
        how = "tokens per second of each cycle" if self.rate is None else f"gain - {self.rate:.1f}/s * cost"
        text = f", with up to {self.max_text} candidates of the text" * (self.max_text > 0)
        return f"controller, depth up to {self.max_depth}, size up to {self.max_size}{text}, maximising {how}"


def features(worth: Doubles, mass: Doubles, top: Doubles, text: Doubles | None = None) -> Doubles:
    """float64 (n, FEATURES) of (n,) each: the present worth, and the sum and best of the newest level's chances.

    Args:
        text: float64 (n, TEXT_FEATURES), stand behind them.
    """
    found = np.stack([np.ones_like(worth), worth, mass, mass * mass, top, top * top], axis=1)
    return found if text is None else np.concatenate([found, text], axis=1)
