"""Chains of one length, as in speculative sampling's first papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd.chains.length import MAX_LENGTH
from ltd.common.argument_types import as_whole, settle
from ltd.errors import InputError


@dataclass(frozen=True, slots=True)
class Constant:
    """K tokens in every cycle.

    Args:
        length: K, 1 … 32.

    Raises:
        InputError: out of range, or not whole.
    """

    length: int

    def __post_init__(self) -> None:
        settle(self, as_whole, "length")
        if not 1 <= self.length <= MAX_LENGTH:
            raise InputError(f"a chain of {self.length} tokens is out of range; use 1 … {MAX_LENGTH}")

    @property
    def max_length(self) -> int:
        """K."""
        return self.length

    def start(self) -> Constant:
        """Itself: it keeps nothing."""
        return self

    def more(self, drafted: int, chance: float, state: torch.Tensor) -> bool:
        """Up to K."""
        return drafted < self.length

    def verified(self, drafted: int, accepted: int) -> None:
        """It learns nothing."""

    def __str__(self) -> str:
        return f"chains of {self.length}"
