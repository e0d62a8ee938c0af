"""What several plots draw: stacked bars of time, and shades for how often each depth and size was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_BINS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 512)  # the largest size of each; 0 is plain
SIZE_LABELS = [
    "plain",
    *(str(high) if high == low + 1 else f"{low + 1}-{high}" for low, high in pairwise(SIZE_BINS)),
]


def draw_time(
    axes: Axes, rows: Sequence[Mapping[str, float]], labels: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    """Stacked bars, one for every row: milliseconds per token by part, and their sum written at the end.

    A part that takes no time anywhere is not drawn, and so not in the legend.
    """
    left = np.zeros(len(rows))
    for part, label in labels.items():
        values = np.array([row.get(part, 0.0) for row in rows])
        if not values.any():
            continue
        axes.barh(range(len(rows)), values, 0.7, left, label=label, color=colours[part])
        left += values
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.2f}", va="center", fontsize=8)
    axes.set_xlim(right=1.15 * float(left.max()) or 1.0)
    axes.margins(y=0.02)
    axes.set(title="where the time goes", xlabel="milliseconds per token")
    axes.spines[["top", "right"]].set_visible(False)


def draw_depths(axes: Axes, rows: Sequence[NDArray[np.float64]]) -> None:
    """`depth_shares` of every row as shades."""
    draw_shares(axes, rows, ["plain", "text", *map(str, range(len(rows[0]) - 2))])
    axes.set(title="depth, share of cycles", xlabel="expansions")


def draw_sizes(axes: Axes, rows: Sequence[NDArray[np.float64]]) -> None:
    """`size_shares` of every row as shades."""
    draw_shares(axes, rows, SIZE_LABELS)
    axes.tick_params(axis="x", labelrotation=30)
    axes.set(title="size, share of cycles", xlabel="candidates verified")


def draw_shares(axes: Axes, rows: Sequence[NDArray[np.float64]], labels: Sequence[str]) -> None:
    """A row of shades for every one of `rows`, with the share in percent where it is at least 1 %; the first on top."""
    shares = np.stack(rows)
    axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    for row, column in np.argwhere(shares >= 0.01).tolist():
        share = shares[row, column]
        colour = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.tick_params(left=False)


def depth_shares(depths: Mapping[int, int], cycles: int, deepest: int) -> NDArray[np.float64]:
    """Of all cycles, the shares of the plain ones, of those with the text's candidates alone, and of 0 … `deepest`.

    Args:
        depths: how many of the cycles that verified anything had each depth, -1 without the draft.
        cycles: all cycles; those in no count are plain.
        deepest: the largest depth there is.
    """
    return shares([depths.get(depth, 0) for depth in range(-1, deepest + 1)], cycles)


def size_shares(sizes: Mapping[int, int], cycles: int) -> NDArray[np.float64]:
    """Of all cycles, the shares of the plain ones and of the sizes between each two of `SIZE_BINS`."""
    counts, _ = np.histogram(list(sizes), np.array(SIZE_BINS) + 0.5, weights=list(sizes.values()))
    return shares(counts.tolist(), cycles)


def shares(counts: Sequence[int], cycles: int) -> NDArray[np.float64]:
    """Of all cycles: first of those that are in no count, which are plain, then of each count."""
    return np.array([cycles - sum(counts), *counts], dtype=np.float64) / cycles
