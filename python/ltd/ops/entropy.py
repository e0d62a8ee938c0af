"""The draft's uncertainty: `row_entropy`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_row_entropy = operator("row_entropy")


def row_entropy(logits: Tensor) -> Tensor:
    """The entropy of the softmax over each row, in one pass.

    Args:
        logits: (B, R, Vd) float32, float16 or bfloat16; Vd >= 1. -inf contributes nothing.

    Returns:
        float32 (B, R), nats: log Z - Σ softmax * logit, Z being the sum of the exponentials. NaN for a row with NaN or
        +inf, or with -inf only.
    """
    entropies: Tensor = _row_entropy(logits)
    return entropies
