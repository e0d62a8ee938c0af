"""The last stage of made-up tables of the head alone."""

from __future__ import annotations

from typing import Any

import numpy as np


def with_plain(gains: Any, seconds: Any, plain_seconds: Any) -> dict[str, Any]:
    """Parts of `Outcomes`: tables (P, D + 1, S) of all depths, and plain cycles as stage -1."""
    shape = (len(gains), 1, gains.shape[2])
    alone = np.broadcast_to(plain_seconds[:, None, None], shape)
    return {
        "gains": np.concatenate([gains, np.ones(shape, dtype=np.int64)], axis=1),
        "seconds": np.concatenate([seconds, alone], axis=1).astype(np.float32),
        "plain_seconds": plain_seconds,
        "text": np.zeros((len(gains), 0), dtype=np.float32),
    }
