"""The target's forwards that data is made with: many texts at a time, in lockstep, and the states of finished ones.

In lockstep all rows hold as many tokens, so that the attention needs no mask; finished rows leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ltd.engine.forward import Forward, TreeBlock
from ltd.engine.kv_cache import ROUND_ROWS_TO
from ltd.training.data.floor import LockstepFloor
from ltd.training.data.states import RowStates, most_likely, read_tokens

TOKENS_PER_FORWARD = 2048  # of prompts, and of finished texts in `read_states`, padding included


class Lockstep:
    """Texts that a target writes in lockstep, empty at first.

    Args:
        forward: the target's.
        rows: how many.
        capacity: tokens of each, at most.
        floor: says how long a forward takes at least.
        layers: the hidden states hs[k] that are features, where states are kept.

    Attributes:
        least_seconds: of all forwards so far, if there is a floor.
        states: of all rows there were, if they are kept.
    """

    def __init__(
        self, forward: Forward, rows: int, capacity: int, floor: LockstepFloor | None = None,
        layers: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self.forward, self.device, self.cache = forward, forward.device, forward.open(rows, capacity)
        self.floor, self.least_seconds = floor, 0.0
        self._rows = list(range(rows))  # which of the first ones there are still
        width = int(forward.config.hidden_size)
        self.states = None if layers is None else RowStates(rows, capacity, layers, width)

    @property
    def length(self) -> int:
        """Tokens that every row holds."""
        return self.cache.host_lengths[0]

    @torch.inference_mode()
    def append(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Append tokens (rows,n) int64 -> logits (rows,V) of what follows, and the most likely of it (rows,)."""
        rows, count = tokens.shape
        if self.floor is not None:
            self.least_seconds += self.floor.seconds(rows, count, self.length)
        if self.states is None:
            block = TreeBlock.chain(self.cache.lengths, count)
            logits = self.forward(tokens, block, self.cache, logits_to_keep=1).logits[:, -1]
            best = most_likely(logits)
        else:
            every, states = read_tokens(self.forward, tokens, self.cache, self.states.layers)
            self.states.add(self._rows, self.length, states)
            logits, best = every[:, -1], states["best"][:, -1].long()
        self.cache.advance([count] * self.cache.batch)
        return logits, best

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; row i of the new ones was rows[i] >= i."""
        self.cache.keep(rows)
        self._rows = [self._rows[row] for row in rows]


def read_states(
    forward: Forward, texts: Sequence[list[int]], layers: tuple[int, ...]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The index of every text, in any order, and what training keeps of its n tokens, (n,…) as in `read_tokens`."""
    for indices in _by_length(texts):
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(texts[index]) for index in indices], batch_first=True)
        # Padding stands on the right, where causal attention keeps it out of everything that counts.
        _, states = read_tokens(forward, tokens.to(forward.device), forward.open(*tokens.shape), layers)
        for row, index in enumerate(indices):
            yield index, {name: kept[row, : len(texts[index])] for name, kept in states.items()}


def _by_length(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Indices of texts of similar length: TOKENS_PER_FORWARD tokens at most, with padding and a cache's rounding."""
    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        if batch and max(len(texts[index]), ROUND_ROWS_TO) * (len(batch) + 1) > TOKENS_PER_FORWARD:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
