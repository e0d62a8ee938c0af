"""Shows a latency model: a table for the terminal, some sentences and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ltd.common.table import Table, png
from ltd.latency.model import LatencyModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "begin": "begin, after a gain of {}",
    "expand": "expansion {}",
    "verify": "verify {} + root",
    "other": "the rest of the cycle, size {}",
    "lookup": "looking tokens up",
    "plain": "plain decoding, a token",
    "prefill": "prefill",
}
DRAFTING = ("begin", "expand")


def latency_table(model: LatencyModel) -> Table:
    """Medians in milliseconds by context length; of verification all sizes, of other parts the first and the last.

    Parts of drafting are left out where there was no draft.
    """
    lengths = next(iter(model.parts.values())).lengths
    rows = []
    for name, part in model.parts.items():
        if name in DRAFTING and not model.drafts:
            continue
        places = range(len(part.sizes)) if name == "verify" else sorted({0, len(part.sizes) - 1})
        for place in places:
            medians = [f"{1e3 * seconds:.2f}" for seconds in part.median[place]]
            label = LABELS[name].format(int(part.sizes[place]))
            rows.append([label, *medians, f"{np.median(part.noise[place]):.0%}"])
    columns = ["context length", *(str(int(length)) for length in lengths), "spread"]
    return Table("Milliseconds (median), and how far the quartiles are apart", columns, rows)


def describe(model: LatencyModel) -> str:
    """One sentence: what was measured, on what, how often and how noisily."""
    setup = model.setup
    where = setup.get("gpu") or f"{setup['processor']}, {setup['threads']} threads"
    return (
        f"{setup['target']}, {setup['dtype']}, {where}: {model.rounds} rounds in {model.seconds:.0f} s, "
        f"median spread {model.noise:.0%}, drift {model.drift:+.0%}."
    )


def plot(model: LatencyModel) -> bytes:
    """A PNG: verification by size and drafting by depth, if there was a draft, in milliseconds, one line per length."""
    return png(draw(model))


def draw(model: LatencyModel) -> Figure:
    """The figure of `plot`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.0), layout="constrained")
    panels = figure.subplots(1, 2 if model.drafts else 1, squeeze=False)[0]
    draw_verify(panels[0], model)
    if model.drafts:
        draw_draft(panels[1], model)
        panels[1].set_ylim(bottom=0)
    for axes in panels:
        axes.set_ylabel("milliseconds")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(title="context length", loc="upper left", frameon=False, fontsize="small")
    figure.suptitle(describe(model), fontsize=8)
    return figure


def draw_verify(axes: Axes, model: LatencyModel) -> None:
    """Verification: the model as a line, the medians as dots, the quartiles as a band.

    Both axes are logarithmic, but for size 0: decisions are made among the small sizes.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    part = model.parts["verify"]
    for column, length in enumerate(part.lengths):
        low, median, high = (1e3 * values[:, column] for values in (part.low, part.median, part.high))
        (line,) = axes.plot(part.sizes, 1e3 * model.verify(part.sizes, length), label=f"{length:.0f}")
        axes.plot(part.sizes, median, ".", color=line.get_color(), markersize=4)
        axes.fill_between(part.sizes, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(title="verification", xlabel="size (candidates without the root)", yscale="log")
    axes.set_xscale("symlog", base=2, linthresh=1)
    doublings = 2 ** np.arange(int(np.log2(max(part.sizes[-1], 1))) + 1)
    axes.set_xticks([0, *doublings])
    axes.set_xlim(-0.3, 1.2 * float(part.sizes[-1]) + 0.3)
    axes.tick_params(axis="x", labelsize=8)
    # However far a noisy band goes.
    axes.set_ylim(0.8e3 * float(part.median.min()), 1.25e3 * float(part.median.max()))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def draw_draft(axes: Axes, model: LatencyModel) -> None:
    """Drafting after a gain of one token, by depth, and plain decoding's step as a dotted line."""
    depths = np.arange(len(model.parts["expand"].sizes) + 1)
    for length in model.parts["expand"].lengths:
        (line,) = axes.plot(depths, 1e3 * model.draft(depths, length), marker=".")
        axes.axhline(1e3 * float(model.plain(length)), color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(title="drafting (dotted: a token of plain decoding)", xlabel="depth (expansions)")
