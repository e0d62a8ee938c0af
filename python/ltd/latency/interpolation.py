"""Curves through measured points that never fall."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltd.common.arrays import Doubles


def isotonic(values: Doubles, axis: int) -> Doubles:
    """The nearest non-decreasing values along an axis, in least squares; what is non-decreasing already stays."""
    fitted: Doubles = np.apply_along_axis(pool, axis, values, np.ones(values.shape[axis]))
    return fitted


def pool(values: Doubles, weights: Doubles) -> Doubles:
    """(n,), positive weights (n,) → (n,): neighbours in the wrong order become their mean, until none are.

    (Pool adjacent violators: the nearest non-decreasing values in weighted least squares.)
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight and count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, heavy, count = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, weighed, many = blocks.pop()
            mean, heavy, count = (before * weighed + mean * heavy) / (weighed + heavy), weighed + heavy, many + count
        blocks.append((mean, heavy, count))
    means, _, counts = zip(*blocks, strict=True)
    return np.repeat(np.array(means, dtype=np.float64), counts)


class Interpolant:
    """Seconds over sizes and context lengths: piecewise bilinear, and never less for more of either.

    Below the grid it stays at the edge; above it goes on along the slope of the last segment.

    Args:
        sizes: float64 (S,), strictly increasing.
        lengths: float64 (T,), strictly increasing.
        values: float64 (S, T), made isotonic along both axes.
    """

    def __init__(self, sizes: Doubles, lengths: Doubles, values: Doubles) -> None:
        self.sizes, self.lengths = sizes, lengths
        # Isotonic regression keeps the order of what it is given, so the second pass does not undo the first.
        self.values = isotonic(isotonic(values, axis=0), axis=1)
        # Slopes above the grid; not smaller for more of the other, or lines that cross there would make more cheaper.
        self.size_slopes = np.maximum.accumulate(_last_slope(sizes, self.values))
        self.length_slopes = np.maximum.accumulate(_last_slope(lengths, self.values.T))

    def __call__(self, size: ArrayLike, length: ArrayLike) -> Doubles:
        """Seconds, float64 of the shape to which size and length broadcast."""
        sizes, lengths = np.asarray(size, dtype=np.float64), np.asarray(length, dtype=np.float64)
        row, next_row, up = _place(self.sizes, sizes)
        column, next_column, right = _place(self.lengths, lengths)
        values = self.values
        lower = values[row, column] * (1 - right) + values[row, next_column] * right
        upper = values[next_row, column] * (1 - right) + values[next_row, next_column] * right
        above_size = np.maximum(sizes - self.sizes[-1], 0) * np.interp(lengths, self.lengths, self.size_slopes)
        above_length = np.maximum(lengths - self.lengths[-1], 0) * np.interp(sizes, self.sizes, self.length_slopes)
        seconds: Doubles = lower * (1 - up) + upper * up + above_size + above_length
        return seconds


def _last_slope(knots: Doubles, values: Doubles) -> Doubles:
    """(n,), (n, m) → (m,): the slope between the last two knots; 0 if there is one."""
    if len(knots) == 1:
        return np.zeros(values.shape[1])
    slope: Doubles = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
    return slope


def _place(knots: Doubles, values: Doubles) -> tuple[NDArray[np.intp], NDArray[np.intp], Doubles]:
    """The knots around each value, and how far it is from the first to the second, 0 … 1; outside, at the edge."""
    inside = np.clip(values, knots[0], knots[-1])
    before = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, max(len(knots) - 2, 0))
    after = np.minimum(before + 1, len(knots) - 1)
    gaps = np.where(after > before, knots[after] - knots[before], 1.0)
    return before, after, (inside - knots[before]) / gaps
