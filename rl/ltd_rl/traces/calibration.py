"""Whether scores tell the truth: how often candidates are the target's tokens, beside what their scores say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltd.common.arrays import Doubles, Integers
from ltd_rl.traces.format import RecordedGeneration, level_starts

EDGES: Doubles = np.array([0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0 + 1e-6])


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Of one level of trees, in bins of what scores say.

    Attributes:
        counts: int64 (bins,), candidates. predicted: float64 (bins,), the sum of what their scores say: exp(score), the
            chance that a candidate and all before it are the target's tokens. observed: int64 (bins,), those that are.
        positions: trees whose continuation is known down to this level.
    """

    counts: Integers
    predicted: Doubles
    observed: Integers
    positions: int

    @property
    def error(self) -> float:
        """The expected calibration error: |predicted - observed| of the bins, summed, per tree."""
        return float(np.abs(self.predicted - self.observed).sum() / max(self.positions, 1))

    def to_dict(self) -> dict[str, object]:
        """As values for JSON: means per candidate of the bins that have any, and sums per tree."""
        full = self.counts > 0
        counts = self.counts[full]
        return {
            "trees": self.positions,
            "candidates": counts.tolist(),
            "predicted": np.round(self.predicted[full] / counts, 5).tolist(),
            "observed": np.round(self.observed[full] / counts, 5).tolist(),
            "predicted_per_tree": round(float(self.predicted.sum() / max(self.positions, 1)), 4),
            "observed_per_tree": round(float(self.observed.sum() / max(self.positions, 1)), 4),
            "error": round(self.error, 4),
        }


def calibration(generations: Sequence[RecordedGeneration], level: int) -> Calibration:
    """What the scores of one level came to in recorded trees.

    Args:
        generations: recorded at least as deep. level: 0, the root's children, and on.
    """
    counts, observed = np.zeros((2, len(EDGES) - 1), dtype=np.int64)
    predicted, positions = np.zeros(len(EDGES) - 1), 0
    for generation in generations:
        known = max(generation.positions - level, 0)  # behind them the text ends
        start, end = level_starts(generation.width, generation.depth + 1)[level : level + 2]
        said = np.exp(generation.scores[:known, start:end].astype(np.float64))
        bins = np.digitize(said, EDGES) - 1
        node = generation.path[:known, level].astype(np.int64)
        right = np.arange(start, end) == node[:, None]
        positions += known
        counts += np.bincount(bins.ravel(), minlength=len(counts))
        predicted += np.bincount(bins.ravel(), weights=said.ravel(), minlength=len(counts))
        observed += np.bincount(bins[right], minlength=len(counts))
    return Calibration(counts, predicted, observed, positions)
