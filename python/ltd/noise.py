"""The noise that a target's sampled tokens and a draft's candidates have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ltd.ops import Noise


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """What a request that samples draws its tokens with, see `docs/lossless.md`.

    Args:
        noise: of the places of its sequences.
        temperature: what the draft's logits are divided by before it is added.
        sharpness: per level of a tree, a factor on the draft's values with noise, whose log-softmax then is a
            candidate's score; the last one is that of all deeper levels too. It changes scores, not candidates.
    """

    noise: Noise
    temperature: float
    sharpness: Sequence[float] = (1.0,)

    def sharpness_at(self, level: int) -> float:
        """Of the candidates of a level, 0 for the root's children."""
        return self.sharpness[min(level, len(self.sharpness) - 1)]

    def refill(self, places: list[int]) -> None:
        """In the same memory, that of the sequences that stand in the batch's places from now on."""
        self.noise.rows.copy_(self.noise.rows[places])
        self.noise.places.fill_(-1)

    def keep(self, rows: list[int]) -> SharedNoise:
        """That of these sequences alone."""
        return SharedNoise(self.noise.keep(rows), self.temperature, self.sharpness)


def noise_of(noise: Noise, index: int) -> Noise:
    """That of one sequence of a batch, in the same memory."""
    here = slice(index, index + 1)
    return replace(noise, noise=noise.noise[here], places=noise.places[here], rows=noise.rows[here])
