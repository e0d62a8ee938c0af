"""Made-up costs of cycles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.learned.setting import Setting

LENGTHS = (16.0, 64.0, 256.0)


def made_costs(seed: int, most: int = 40, depth: int = 12, width: int = 3) -> CycleCosts:
    """Random costs in milliseconds that never fall; verification has flat parts and jumps, so it is not convex."""
    generator = np.random.default_rng(seed)
    shape = (depth + 1, len(LENGTHS))
    drafting = np.cumsum(0.05 + 0.5 * generator.random(shape), axis=0)
    steps = generator.choice([0.0, 0.02, 0.3], (most + 1, len(LENGTHS))) * generator.random((most + 1, len(LENGTHS)))
    verifying = 2.0 + np.cumsum(steps, axis=0)
    return CycleCosts(Setting(width), np.array(LENGTHS), drafting, verifying)


class Abacus:
    """Stands in for a latency model, which was measured on nothing that is known."""

    setup: Mapping[str, Any] = {}

    def plain(self, length: Any) -> Any:
        return 1.0 + 0.0 * length

    def begin(self, gain: Any, length: Any) -> Any:
        return 0.2 + 0.0 * (length + gain)

    def cycle(self, depth: Any, size: Any, length: Any, gain: Any) -> Any:
        return 1.0 + 0.1 * depth + 0.01 * size + 0.0 * (length + gain)

    def verify(self, size: Any, length: Any) -> Any:
        return 1.0 + 0.01 * size + 0.0 * length

    def other(self, size: Any, length: Any) -> Any:
        return 0.0 * (size + length)
