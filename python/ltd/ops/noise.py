"""The noise that sampled tokens are drawn with, by place in a text. Words and errors: see `ltd.ops`.

A token is sampled as the argmax of logit / temperature + noise, with Gumbel noise, whose law is softmax(logits /
temperature). The noise belongs to (seed, row, position, token): that of token v at the place of `position`, the last
token known, is -ln(-ln(1 - u)) with u = (w + 1/2) * 2^-32, where w is word v % 4 of Philox4x32-10 with the counter
(position, row, v // 4, 4), keyed by the seed. It is within 1.2e-6 of that in exact numbers, and the same to the last
bit on all devices and instruction sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltd.errors import InputError
from ltd.ops.library import operator

_place_noise = operator("place_noise")


def place_noise(seed: int | Tensor, row: int, position: int, vocabulary: int) -> Tensor:
    """The noise of one place.

    Args:
        seed: any int64, or one in an int64 tensor (1,), whose device is the result's.
        row: the sequence's number in its call, 0 … 2^32 - 1.
        position: of the last token known, 0 … 2^32 - 1.
        vocabulary: 1 … 2^30.

    Returns:
        float32 (vocabulary,).
    """
    given = seed if isinstance(seed, Tensor) else torch.tensor([seed])
    noise: Tensor = _place_noise(given, row, position, vocabulary)
    return noise


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """The noise of B sequences, and where operators keep it: they make what is missing of the places they come to.

    Position p lies in slot p % K. Noise is made once for as long as no other position wants its slot, so K should be
    above the depth of any tree; with fewer slots results are the same, and noise is made more often.

    Args:
        noise: float32 (B, K, vocabulary), K a power of two.
        places: int64 (B, K): the position whose noise a slot holds, -1 = none.
        rows: int64 (B,), each sequence's number in its call, 0 … 2^32 - 1; it keeps its noise when others leave the
            batch.
        seed: int64 (1,).
    """

    noise: Tensor
    places: Tensor
    rows: Tensor
    seed: Tensor

    @classmethod
    def new(
        cls, batch: int, vocabulary: int, rows: Sequence[int], device: torch.device | str, capacity: int = 32
    ) -> Noise:
        """One of seed 0 that holds nothing yet; its memory is touched when noise is made.

        Args:
            batch: B.
            vocabulary: the target's.
            rows: B of them.
            device: of all its tensors.
            capacity: K.

        Raises:
            InputError: another number of rows than B.
        """
        check_rows(rows, batch)
        return cls(
            torch.empty(batch, capacity, vocabulary, device=device),
            torch.full((batch, capacity), -1, device=device),
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
        )

    def restart(self, seed: int, rows: Sequence[int]) -> None:
        """In the same memory, that of another seed, any int64, and of B other rows.

        Raises:
            InputError: another number of rows than B, or a seed that is no int64.
        """
        check_rows(rows, len(self.rows))
        if not -(2**63) <= seed < 2**63:
            raise InputError(f"Noise: seed must be -2^63 to 2^63 - 1, but is {seed}")
        self.seed.fill_(seed)
        self.rows.copy_(torch.tensor(rows, dtype=torch.int64))
        self.places.fill_(-1)

    def keep(self, rows: Sequence[int]) -> Noise:
        """That of the sequences with these numbers in the batch alone, in the first part of the same memory.

        What was made is forgotten here too: the next operators make it anew.
        """
        self.places.fill_(-1)
        kept = self.rows[torch.tensor(rows, dtype=torch.int64, device=self.rows.device)]
        return Noise(self.noise[: len(rows)], self.places[: len(rows)], kept, self.seed)


def check_rows(rows: Sequence[int], batch: int) -> None:
    """InputError unless there is one for each of the B sequences."""
    if len(rows) != batch:
        raise InputError(f"Noise: rows must be {batch} numbers, one per sequence, but are {len(rows)}")
