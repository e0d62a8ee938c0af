"""What every rule for the length of a chain answers."""

from __future__ import annotations

from typing import Protocol

import torch

MAX_LENGTH = 32


class LengthCall(Protocol):
    """A rule for one generation. A wrong answer can cost speed, never correctness."""

    def more(self, drafted: int, chance: float, state: torch.Tensor) -> bool:
        """Whether to draft another token; asked after each of the first `max_length` - 1.

        Args:
            drafted: tokens of this cycle so far, 1 …
            chance: the draft's probability of the last of them; if it samples, after temperature, top-k and top-p. With
                the sampler "noise" it is the token's share of all values logit / temperature + noise, as the scores of
                trees have it: the noise is the target's too, so this estimates whether the target draws it.
            state: (H,), the draft's last hidden state (after its final norm) in the forward that proposed this token,
                which has read the token before it: the root for the first, a drafted one for the others.
        """
        ...

    def verified(self, drafted: int, accepted: int) -> None:
        """Told after each cycle how many of its drafted tokens the target accepted."""
        ...


class Length(Protocol):
    """Decides after every drafted token whether the chain goes on.

    Attributes:
        max_length: the most tokens it may ask for in a cycle, 1 … 32.
    """

    @property
    def max_length(self) -> int: ...

    def start(self) -> LengthCall:
        """The rule for one generation. One that keeps nothing between cycles may return itself."""
        ...
