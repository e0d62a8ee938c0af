"""What a cycle gained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class Accepted:
    """The accepted path of every sequence.

    Attributes:
        path: int32 (B, P), node indices, root first.
        tokens: int64 (B, P), the target's token after each of them; the last is the bonus.
        gained: int32 (B,), how many of both count.
        counts, token_lists: the same on the host, token_lists cut to the counts.
    """

    path: torch.Tensor
    tokens: torch.Tensor
    gained: torch.Tensor
    counts: list[int]
    token_lists: list[list[int]]

    def keep(self, rows: list[int]) -> Accepted:
        """Only these sequences."""
        counts, token_lists = [self.counts[row] for row in rows], [self.token_lists[row] for row in rows]
        return Accepted(self.path[rows], self.tokens[rows], self.gained[rows], counts, token_lists)


@dataclass(frozen=True, slots=True)
class Gain:
    """What a verification brought, as the next cycle needs it.

    Attributes:
        accepted: the tokens; sequence b's last valid one is its next root.
        features: (B, n, F * Ht) of the nodes before those tokens, now committed; None if nothing is tapped.
    """

    accepted: Accepted
    features: torch.Tensor | None

    @property
    def following(self) -> torch.Tensor:
        """int64 (B, n): the accepted tokens, n = the longest gain of the batch."""
        return self.accepted.tokens[:, : max(self.accepted.counts)]

    @property
    def roots(self) -> torch.Tensor:
        """int64 (B,): the next roots."""
        return torch.tensor([tokens[-1] for tokens in self.accepted.token_lists], device=self.accepted.tokens.device)

    def keep(self, rows: list[int]) -> Gain:
        """Only these sequences."""
        accepted = self.accepted.keep(rows)
        features = None if self.features is None else self.features[rows, : max(accepted.counts)]
        return Gain(accepted, features)


def joined(gains: list[Gain]) -> tuple[torch.Tensor | None, torch.Tensor, list[int]]:
    """The gains of one or more cycles in a row, oldest first, as if they were one.

    Returns:
        features (B, n, F * Ht) or None, the tokens after them int64 (B, n), and how many of both count per sequence,
        with n = the largest of these counts. What stands behind a sequence's count is arbitrary.
    """
    if len(gains) == 1:
        return gains[0].features, gains[0].following, gains[0].accepted.counts
    counts = [gain.accepted.counts for gain in gains]

    def one_after_the_other(parts: list[torch.Tensor]) -> torch.Tensor:
        rows = [
            torch.cat([part[row, : count[row]] for part, count in zip(parts, counts, strict=True)])
            for row in range(len(counts[0]))
        ]
        return pad_sequence(rows, batch_first=True)

    features = [gain.features for gain in gains if gain.features is not None]
    tokens = one_after_the_other([gain.following for gain in gains])
    return one_after_the_other(features) if features else None, tokens, list(map(sum, zip(*counts, strict=True)))
