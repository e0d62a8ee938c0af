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

TOKENS_PER_FORWARD = 2048  # of finished texts in `read_states`, padding included
ROWS_AT_ONCE = 256  # of logits in float32


class States:
    """What training keeps of a text of n tokens.

    features (n,F*Ht): hs[k] of the feature layers; final (n,Ht): after the final norm; best (n,) int32: the most likely
    next token; total (n,) float32: the logarithm of the sum of exponentials of all logits.
    """

    __slots__ = ("best", "features", "final", "total")

    def __init__(self, features: Tensor, final: Tensor, logits: Tensor) -> None:
        self.features, self.final = features, final
        self.best = logits.max(-1).indices.to(torch.int32)
        self.total = torch.cat([part.float().logsumexp(-1) for part in logits.split(ROWS_AT_ONCE)])


class Lockstep:
    """Texts that a target writes in lockstep, empty at first.

    Args:
        forward: the target's.
        rows: how many.
        capacity: tokens of each, at most.
        floor: says how long a forward takes at least.

    Attributes:
        least_seconds: of all forwards so far, if there is a floor.
    """

    def __init__(self, forward: Forward, rows: int, capacity: int, floor: LockstepFloor | None = None) -> None:
        self.forward, self.device, self.cache = forward, forward.device, forward.open(rows, capacity)
        self.floor, self.least_seconds = floor, 0.0

    @property
    def length(self) -> int:
        """Tokens that every row holds."""
        return self.cache.host_lengths[0]

    @torch.inference_mode()
    def append(self, tokens: Tensor) -> Tensor:
        """Append tokens (rows,n) int64 -> logits (rows,V) of what follows."""
        rows, count = tokens.shape
        if self.floor is not None:
            self.least_seconds += self.floor.seconds(rows, count, self.length)
        read = self.forward(tokens, TreeBlock.chain(self.cache.lengths, count), self.cache, logits_to_keep=1)
        self.cache.advance([count] * self.cache.batch)
        return read.logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; row i of the new ones was rows[i] >= i."""
        self.cache.keep(rows)


@torch.inference_mode()
def read_states(forward: Forward, texts: Sequence[list[int]], layers: tuple[int, ...]) -> Iterator[tuple[int, States]]:
    """The index and the states of every text, in any order; `layers` are the feature layers."""
    width, taps = int(forward.config.hidden_size), (*layers, int(forward.config.num_hidden_layers))
    for indices in _by_length(texts):
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(texts[index]) for index in indices], batch_first=True)
        cache = forward.open(*tokens.shape)
        # Padding stands on the right, where causal attention keeps it out of everything that counts.
        read = forward(tokens.to(forward.device), TreeBlock.chain(cache.lengths, tokens.size(1)), cache, taps=taps)
        assert read.features is not None
        for row, index in enumerate(indices):
            count = len(texts[index])
            features, last = read.features[row, :count].split([width * len(layers), width], dim=-1)
            yield index, States(features, forward.norm(last), read.logits[row, :count])


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
