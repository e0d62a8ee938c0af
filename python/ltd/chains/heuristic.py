"""The schedule of assisted generation in `transformers`: longer after a success, shorter after a failure."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd.chains.length import MAX_LENGTH
from ltd.common.argument_types import as_whole, settle
from ltd.errors import InputError


@dataclass(frozen=True, slots=True)
class Heuristic:
    """Two tokens more after a wholly accepted chain, else one less, and never less than one.

    That is `num_assistant_tokens_schedule="heuristic_transient"` of `transformers` (`AssistedCandidateGenerator.
    update_candidate_strategy`), but for the bound above.

    Args:
        start_length: of the first cycle's chain.
        most: the longest chain, up to 32.

    Raises:
        InputError: a length out of range, or not whole.
    """

    start_length: int = 5
    most: int = 20

    def __post_init__(self) -> None:
        settle(self, as_whole, "start_length", "most")
        if not 1 <= self.start_length <= self.most <= MAX_LENGTH:
            raise InputError(
                f"start_length is {self.start_length} and most {self.most}; they must be "
                f"1 ≤ start_length ≤ most ≤ {MAX_LENGTH}"
            )

    @property
    def max_length(self) -> int:
        """`most`."""
        return self.most

    def start(self) -> HeuristicCall:
        """A schedule that begins with `start_length`."""
        return HeuristicCall(self.start_length, self.most)

    def __str__(self) -> str:
        return f"chains of {self.start_length} at first, by success up to {self.most}"


@dataclass(slots=True)
class HeuristicCall:
    """The schedule in one generation.

    Attributes:
        length: of the next chain.
    """

    length: int
    most: int

    def more(self, drafted: int, chance: float, state: torch.Tensor) -> bool:
        """Up to the present length."""
        return drafted < self.length

    def verified(self, drafted: int, accepted: int) -> None:
        """Adapts the length. A chain that the end of the answer cut short counts as any other."""
        self.length = min(self.length + 2, self.most) if accepted == drafted else max(1, self.length - 1)
