"""What every rule for the length of a chain answers."""

from __future__ import annotations

from typing import Protocol

import torch

MAX_LENGTH = 32


class LengthCall(Protocol):
    """A rule for one generation. A wrong answer can cost speed, never correctness."""

    def more(self, drafted: int, chance: float, state: torch.Tensor | None) -> bool:
        """Whether to draft another token; asked after each of the first `max_length` - 1.

        Args:
            drafted: tokens of this cycle so far, 1 …
            chance: the draft's probability of the last of them (after temperature, top-k and top-p, if it samples).
            state: (H,), the draft's last hidden state (after its final norm) where it has read this token; None for a
                rule with `reads_states` False.
        """
        ...

    def verified(self, drafted: int, accepted: int) -> None:
        """Told after each cycle how many of its drafted tokens the target accepted."""
        ...


class Length(Protocol):
    """Decides after every drafted token whether the chain goes on.

    Attributes:
        max_length: the most tokens it may ask for in a cycle, 1 … 32.
        reads_states: whether `more` wants the state, for which the draft must read the token first.
    """

    @property
    def max_length(self) -> int: ...

    @property
    def reads_states(self) -> bool: ...

    def start(self) -> LengthCall:
        """The rule for one generation. One that keeps nothing between cycles may return itself."""
        ...
