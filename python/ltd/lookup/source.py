"""Proposes tokens of the text itself, for every sequence of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ltd._C import HistoryIndex, TextIndex
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
        host: the same on the host, where they were found; None if these are there.
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    chances: Tensor
    counts: Tensor
    counts_list: list[int]
    features: Tensor
    cells: Tensor
    host: TextCandidates | None = field(default=None, repr=False)

    @property
    def here(self) -> TextCandidates:
        """Those that the host reads without waiting."""
        return self if self.host is None else self.host


class TextHistory:
    """Other texts that are looked up in as well. They are indexed once, when they are first needed, for all requests.

    Args:
        tokens: with -1 between two texts.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self.tokens = tuple(tokens)

    @cached_property
    def index(self) -> HistoryIndex | None:
        """What texts are looked up in; None where there is none.

        Raises:
            InputError: something is no token.
        """
        return HistoryIndex(self.tokens) if self.tokens else None


class TextSource:
    """Looks up where the last tokens of each text of one request stood before, and proposes what followed them then.

    Args:
        batch: sequences B; their texts begin empty.
        scores: how likely looked-up tokens are.
        most: candidates T of a sequence at most, 1 … 64.
        history: other texts, which are looked up in as well.
        device: where the candidates are wanted.

    Raises:
        InputError: a number out of range, or a token of the history that is none.
    """

    def __init__(
        self,
        batch: int,
        scores: TextScores,
        most: int,
        history: TextHistory | None = None,
        device: torch.device = CPU,
    ) -> None:
        if not 1 <= most <= MAX_TEXT:
            raise InputError(f"most = {most} text candidates is out of range; it must be 1 … {MAX_TEXT}")
        chances, knots = scores.chances.ravel().tolist(), scores.head_scores.tolist()
        log_chances, earlier = scores.head_log_chances.tolist(), None if history is None else history.index
        self._new_index = partial(TextIndex, chances, knots, log_chances, most, earlier)
        self._indices = [self._new_index() for _ in range(batch)]
        self._texts: list[list[int]] = [[] for _ in range(batch)]
        self._host = CandidateBuffers(batch, most, CPU, pinned=device.type == "cuda")
        self._there = self._host if device.type == "cpu" else CandidateBuffers(batch, most, device)
        self._found = self._begin()

    def extend(self, row: int, tokens: Sequence[int]) -> None:
        """Appends tokens to the text of a sequence; takes constant time per token.

        Raises:
            InputError: something is no token; nothing is appended then.
        """
        self._indices[row].extend(tokens)
        self._texts[row] += tokens

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these; sequence i becomes what rows[i] was, or, where that is taken, a copy of it."""
        self._texts = [[*self._texts[row]] for row in rows]
        self._indices = [
            self._indexed(text) if row in rows[:place] else self._indices[row]
            for place, (row, text) in enumerate(zip(rows, self._texts, strict=True))
        ]
        self._found = self._begin()

    def _indexed(self, text: Sequence[int]) -> TextIndex:
        """What a text is looked up in, indexed anew."""
        index = self._new_index()
        index.extend(text)
        return index

    def _begin(self) -> TextCandidates:
        """Gives every sequence its row of the buffers; the candidates that will stand there."""
        for row, index in enumerate(self._indices):
            index.write_to(*self._host.row(row))
        here = self._host.of(len(self._indices))
        if self._there is self._host:
            return here
        return replace(self._there.of(len(self._indices)), counts_list=here.counts_list, host=here)

    def propose(self, news: Sequence[Sequence[int]] | None = None) -> TextCandidates:
        """The candidates at the end of every text, whose last token is the root.

        Args:
            news: tokens to append to each of the texts before; None is nothing.

        Raises:
            InputError: something is no token.
        """
        if news is None:
            news = [()] * len(self._indices)
        found = self._found
        found.counts_list[:] = [index.propose(tokens) for index, tokens in zip(self._indices, news, strict=True)]
        for text, tokens in zip(self._texts, news, strict=True):
            text += tokens
        if self._there is not self._host:
            # The next lookup overwrites what is copied; by then the tokens that this one led to have been waited for.
            self._there.memory.copy_(self._host.memory, non_blocking=True)
        return found


class CandidateBuffers:
    """Candidates of B sequences in one piece of memory, which goes to a device in one copy.

    Args:
        batch: B. most: T. device: of the memory.
        pinned: whether a GPU can fetch from it while the host goes on.
    """

    def __init__(self, batch: int, most: int, device: torch.device, pinned: bool = False) -> None:
        parts = {  # those of 8 bytes first, so that all are aligned
            "tokens": (torch.int64, most),
            "parents": (torch.int32, most),
            "scores": (torch.float32, most),
            "chances": (torch.float32, most),
            "features": (torch.float32, TEXT_FEATURES),
            "cells": (torch.int32, most),
            "counts": (torch.int32, 1),
        }
        sizes = [batch * columns * dtype.itemsize for dtype, columns in parts.values()]
        self.memory = torch.zeros(sum(sizes), dtype=torch.uint8, device=device, pin_memory=pinned)
        self.parts = {
            name: piece.view(dtype).view(batch, columns)
            for piece, (name, (dtype, columns)) in zip(self.memory.split(sizes), parts.items(), strict=True)
        }

    def row(self, row: int) -> tuple[Tensor, ...]:
        """Where the candidates of one sequence stand, as `TextIndex.write_to` takes it."""
        return tuple(part[row] for part in self.parts.values())

    def of(self, batch: int) -> TextCandidates:
        """The first so many sequences."""
        parts = {name: part[:batch] for name, part in self.parts.items()}
        return TextCandidates(**{**parts, "counts": parts["counts"][:, 0]}, counts_list=[0] * batch)
