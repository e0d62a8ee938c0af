"""Proposes tokens of the text itself, for every sequence of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltd._C import TextIndex
from ltd.errors import InputError
from ltd.lookup.scores import TextScores

MAX_TEXT = 64  # candidates
MAX_TEXT_DEPTH = 16  # tokens below the root
TEXT_FEATURES = 24
SEPARATOR = -1  # stands between texts and matches nothing
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class TextCandidates:
    """The text's candidates of B sequences, in descending order of score, parents first.

    Views of buffers that the next lookup overwrites. Behind a row's candidates stand token 0, parent -1, score -inf and
    cell -1.

    Attributes:
        tokens: int64 (B, T).
        parents: int32 (B, T), text-candidate indices, -1 = root.
        scores: float32 (B, T), in the head's units; never higher than the parent's.
        chances: float32 (B, T), to be right, the path to it included; 0 behind a row's candidates.
        counts: int32 (B,), candidates of every row; counts_list has the same.
        features: float32 (B, TEXT_FEATURES), what a policy reads: of depth 1 … 8 the highest log-chance of being right
            / 4 and then its exponential (-20 where there is no candidate); the summed chances of the first 2, 4, 8 and
            all candidates; the longest match / 16; how many places have it (up to 32) / 32; candidates / 32; how often
            the best place was right lately.
        cells: int32 (B, T), the evidence: (match - 1) * 18 + agreement * 3 + rate, see `TextScores`.
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    chances: Tensor
    counts: Tensor
    counts_list: list[int]
    features: Tensor
    cells: Tensor


class TextSource:
    """Looks up where the last tokens of each text of one request stood before, and proposes what followed them then.

    Args:
        batch: sequences B; their texts begin empty.
        scores: how likely looked-up tokens are.
        most: candidates T of a sequence at most, 1 … 64.
        history: tokens of other texts, -1 between them, which are looked up in as well.

    Raises:
        InputError: a number out of range, or a token that is none.
    """

    def __init__(self, batch: int, scores: TextScores, most: int, history: Sequence[int] = ()) -> None:
        if not 1 <= most <= MAX_TEXT:
            raise InputError(f"most = {most} text candidates is out of range; it must be 1 … {MAX_TEXT}")
        chances, knots = scores.chances.ravel().tolist(), scores.head_scores.tolist()
        log_chances = scores.head_log_chances.tolist()
        self._indices = [TextIndex(chances, knots, log_chances, most) for _ in range(batch)]
        if history:
            for index in self._indices:
                index.extend([*history, SEPARATOR])
        self._buffers = (
            torch.zeros(batch, most, dtype=torch.int64),
            torch.zeros(batch, most, dtype=torch.int32),
            torch.zeros(batch, most),
            torch.zeros(batch, most),
            torch.zeros(batch, TEXT_FEATURES),
            torch.zeros(batch, most, dtype=torch.int32),
        )
        self._rows = [tuple(buffer[row] for buffer in self._buffers) for row in range(batch)]

    def extend(self, row: int, tokens: Sequence[int]) -> None:
        """Appends tokens to the text of a sequence; takes constant time per token.

        Raises:
            InputError: something is no token; nothing is appended then.
        """
        self._indices[row].extend(tokens)

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these; sequence i becomes what rows[i] was."""
        self._indices = [self._indices[row] for row in rows]

    def propose(self, device: torch.device = CPU) -> TextCandidates:
        """The candidates at the end of every text, whose last token is the root."""
        batch = len(self._indices)
        counts = [index.propose(*row) for index, row in zip(self._indices, self._rows[:batch], strict=True)]
        parts = self._buffers if batch == len(self._rows) else [buffer[:batch] for buffer in self._buffers]
        tokens, parents, scores, chances, features, cells = (
            parts if device.type == "cpu" else [part.to(device) for part in parts]
        )
        counted = torch.tensor(counts, dtype=torch.int32, device=device)
        return TextCandidates(tokens, parents, scores, chances, counted, counts, features, cells)
