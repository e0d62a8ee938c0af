"""What a cycle gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from ltd.engine.captures import rounded_up
from ltd.tree import MAX_GAIN, DraftTree


@dataclass(frozen=True, slots=True)
class Accepted:
    """The accepted path of every sequence.

    Attributes:
        path: int32 (B, P), node indices, root first.
        tokens: int64 (B, P), the target's token after each of them; the last is the bonus.
        gained: int32 (B,), how many of both count.
        roots: int64 (B,), the last token that counts.
        counts, token_lists: the same on the host, token_lists cut to the counts.
        sources: int8 (B, P), on the host: who proposed the nodes, see `DraftTree.sources`; None where the host can see
            the tree itself.
    """

    path: torch.Tensor
    tokens: torch.Tensor
    gained: torch.Tensor
    roots: torch.Tensor
    counts: list[int]
    token_lists: list[list[int]]
    sources: torch.Tensor | None = None

    def keep(self, rows: list[int]) -> Accepted:
        """Only these sequences, in memory of their own; their sources have been counted."""
        counts, token_lists = [self.counts[row] for row in rows], [self.token_lists[row] for row in rows]
        return Accepted(self.path[rows], self.tokens[rows], self.gained[rows], self.roots[rows], counts, token_lists)

    def refilled(self, places: list[int]) -> Accepted:
        """As the host knows it once these sequences stand in the batch's places, where the device has them already."""
        counts, token_lists = [self.counts[row] for row in places], [self.token_lists[row] for row in places]
        return replace(self, counts=counts, token_lists=token_lists, sources=None)

    def copied(self) -> Accepted:
        """All sequences, in memory of their own; their sources have been counted."""
        path, tokens, gained, roots = (part.clone() for part in (self.path, self.tokens, self.gained, self.roots))
        return Accepted(path, tokens, gained, roots, self.counts, self.token_lists)

    def count_sources(self, tree: DraftTree, news: Sequence[Sequence[int]]) -> list[int]:
        """How many of the candidates that became part of the answers each source proposed, see `DraftTree.sources`.

        Args:
            tree: that was verified.
            news: the new tokens of every answer, in order; what stands behind these sequences is of no answer.
        """
        # The last token of a gain is the target's own.
        kept = [min(len(tokens), count - 1) for tokens, count in zip(news, self.counts, strict=False)]
        kept += [0] * (len(self.counts) - len(kept))
        if self.sources is None:
            return tree.count_sources(self.path, kept)
        rows = zip(self.sources.tolist(), kept, strict=True)
        found = [source for row, count in rows for source in row[1 : count + 1]]
        return [found.count(source) for source in (1, 2, 3)]


@dataclass(frozen=True, slots=True)
class Gain:
    """What a verification brought, as the next cycle needs it: on the device, in memory that the next one overwrites.

    Attributes:
        accepted: the tokens; sequence b's last valid one is its next root.
        features: (B, P, F * Ht) of the nodes before those tokens, now committed; None if nothing is tapped.
        is_copied: whether it lies in memory of its own instead.
    """

    accepted: Accepted
    features: torch.Tensor | None
    is_copied: bool = False

    def keep(self, rows: list[int]) -> Gain:
        """Only these sequences, in memory of their own."""
        accepted = self.accepted.keep(rows)
        features = None if self.features is None else self.features[rows, : max(accepted.counts)]
        return Gain(accepted, features, is_copied=True)

    def copied(self) -> Gain:
        """The same in memory of its own, to be read after the next verification."""
        # No list of rows: indices of the host's would have to come to the device, and the host would wait for that.
        features = None if self.features is None else self.features[:, : max(self.accepted.counts)].clone()
        return Gain(self.accepted.copied(), features, is_copied=True)


@dataclass(frozen=True, slots=True)
class Unread:
    """The gains of one or more cycles in a row as if they were one, for a draft to read.

    Attributes:
        features: (B, n, F * Ht), or None.
        tokens: int64 (B, n), those after them. What stands behind a sequence's count is arbitrary.
        counts: how many of both count, per sequence; gained: int32 (B,), the same on the device, None where all n do.
        width: n, if they lie where the last verification wrote them; None if they were copied.
    """

    features: torch.Tensor | None
    tokens: torch.Tensor
    counts: list[int]
    gained: torch.Tensor | None
    width: int | None = None


def in_runs(gains: list[Gain]) -> list[list[Gain]]:
    """The gains, oldest first, in as few runs as a draft can read one after the other.

    A run is read as wide as its longest sequence, so rows are written behind the shorter ones that are none of theirs.
    No sequence gains more than `MAX_GAIN` tokens less than another in a run: for so many a cache has room.
    """
    runs: list[list[Gain]] = []
    total: list[int] = []
    for gain in gains:
        counts = gain.accepted.counts
        if runs:
            total = [before + count for before, count in zip(total, counts, strict=True)]
        if runs and max(total) - min(total) <= MAX_GAIN:
            runs[-1].append(gain)
        else:
            runs.append([gain])
            total = counts
    return runs


def joined(gains: list[Gain], widths: tuple[int, ...] = ()) -> Unread:
    """The gains, oldest first; n is the largest count.

    Args:
        widths: what n is rounded up to where the gain was not copied, in order; then `gained` is always given.
    """
    counts = [gain.accepted.counts for gain in gains]
    total = list(map(sum, zip(*counts, strict=True)))
    width = max(total)
    is_even = min(total) == width
    if len(gains) == 1:
        accepted, features, is_copied = gains[0].accepted, gains[0].features, gains[0].is_copied
        if widths and not is_copied:
            width, is_even = rounded_up(width, widths), False
        return Unread(
            None if features is None else features[:, :width],
            accepted.tokens[:, :width],
            total,
            None if is_even else accepted.gained,
            None if is_copied else width,
        )

    def one_after_the_other(parts: list[torch.Tensor]) -> torch.Tensor:
        rows = [
            torch.cat([part[row, : count[row]] for part, count in zip(parts, counts, strict=True)])
            for row in range(len(counts[0]))
        ]
        return pad_sequence(rows, batch_first=True)

    tapped = [gain.features for gain in gains if gain.features is not None]
    return Unread(
        one_after_the_other(tapped) if tapped else None,
        one_after_the_other([gain.accepted.tokens for gain in gains]),
        total,
        None if is_even else torch.stack([gain.accepted.gained for gain in gains]).sum(0, dtype=torch.int32),
    )
