"""What goes into a forward of the target besides tokens, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TreeBlock:
    """What tree attention must know about the tokens of one forward.

    Attributes:
        lengths: int32 (B,), prefix rows in the cache.
        positions: int64 (B, N), of the tokens.
        masks: int64 (B, N, words) bit-packed ancestors, or None for a chain (each token sees those before it).
    """

    lengths: torch.Tensor
    positions: torch.Tensor
    masks: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Verified:
    """What one target forward says.

    Attributes:
        logits: (B, N, vocabulary) in the model's type.
        features: (B, N, F * hidden), the tapped hidden states side by side, low layer first; None if none is tapped.
    """

    logits: torch.Tensor
    features: torch.Tensor | None
