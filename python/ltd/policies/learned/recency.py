"""How much of the drafts was accepted lately: what a policy remembers from cycle to cycle."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

RATES = (0.5, 0.85)  # about the last 2 and the last 7 drafts
START = 1.0  # accepted tokens; between a draft that is useless and one that is good

ArrayOrTensor = TypeVar("ArrayOrTensor", NDArray[np.float32], torch.Tensor)
_NUMPY_RATES = np.array(RATES, dtype=np.float32)
_TORCH_RATES = torch.tensor(RATES)


def update(recents: ArrayOrTensor, accepted: ArrayOrTensor) -> ArrayOrTensor:
    """The recents after one more cycle with a draft; a cycle without one leaves them as they are.

    Each is an average of the tokens accepted from drafts in which every draft counts `rate` times what the next does.
    NumPy and torch give the same numbers to the last bit, so that a policy is trained with what it will see.

    Args:
        recents: float32 (n, 2), at first `START`.
        accepted: float32 (n,), how many tokens of the draft were accepted: one less than the cycle gained.

    Returns:
        float32 (n, 2), new.
    """
    if isinstance(recents, torch.Tensor):
        return recents * _TORCH_RATES + accepted[:, None] * (1 - _TORCH_RATES)
    return recents * _NUMPY_RATES + accepted[:, None] * (1 - _NUMPY_RATES)
