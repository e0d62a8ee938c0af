"""How much was accepted lately: running means that the summary observation shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATES = (0.5, 0.85)
START = 1.0


def update(recents: NDArray[np.float32], accepted: NDArray[np.int64]) -> NDArray[np.float32]:
    """The means after one more cycle: rate * mean + (1 - rate) * accepted.

    Args:
        recents: float32 (n, 2), START at a generation's beginning.
        accepted: int64 (n,), draft tokens accepted: the gain without the target's own token.
    """
    rates = np.array(RATES, dtype=np.float32)
    updated: NDArray[np.float32] = rates * recents + (1 - rates) * accepted[:, None].astype(np.float32)
    return updated
