"""Shows an analysis: tables for the terminal and for Markdown, JSON, and a plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ltd.files import write_bytes, write_text
from ltd.report import MEAN, Table, png
from ltd_rl.analysis import OPTIMUM, PARTS, STATIC, Analysis, Spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERS = ("tokens_per_second", "acceptance_length", "mean_depth", "mean_size")
RATIOS = ("to_plain", "to_static", "share_of_gap")
COLUMNS = ["", "tokens/s", "x plain", "x static", "of gap", "τ", "mean D", "mean V"]
LABELS = {"begin": "draft, at the root", "expand": "draft, expansions", "verify": "verification",
          "rest": "rest of the cycle", "plain": "plain step"}  # fmt: skip
COLOURS = {"begin": "#9ecae1", "expand": "#3182bd", "verify": "#e6550d", "rest": "#969696", "plain": "#31a354"}
SIZE_BINS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 512)  # the largest size of each; 0 is plain

Row = dict[str, float]


def write_analysis(results: Analysis, notes: list[str], out: Path, console: Console) -> None:
    """Prints the tables and writes `analysis.json`, `table.md` and `plot.png` into the folder."""
    summary = summarise(results)
    tables = [make_table(task, rows) for task, rows in summary.items()]
    for table in tables:
        console.print(table.rich())
    for note in notes:
        console.print(note, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    spent = {task: {name: dataclasses.asdict(found) for name, found in row.items()} for task, row in results.items()}
    content: dict[str, Any] = {"notes": notes, "summary": summary, "spent": spent}
    write_text(out / "analysis.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "table.md", "\n".join([*(table.markdown() for table in tables), *(f"{note}\n" for note in notes)]))
    write_bytes(out / "plot.png", plot(results))


def summarise(results: Analysis) -> dict[str, dict[str, Row]]:
    """By task, then by way to decide: the table's numbers. "mean" is the arithmetic mean over several tasks.

    share_of_gap: the part of what the optimum has more tokens per second than the best static decision.
    """
    summary: dict[str, dict[str, Row]] = {}
    for task, spent in results.items():
        rates = {name: found.throughput for name, found in spent.items()}
        gap = rates[OPTIMUM] - rates[STATIC]
        summary[task] = {
            name: {
                "tokens_per_second": rate,
                "to_plain": rate / rates["plain"],
                "to_static": rate / rates[STATIC],
                "share_of_gap": (rate - rates[STATIC]) / gap if gap > 0 else 0.0,
                **{number: getattr(spent[name], number) for number in NUMBERS[1:]},
            }
            for name, rate in rates.items()
        }
    if len(summary) > 1:
        names = next(iter(summary.values()))
        summary[MEAN] = {name: mean_row([rows[name] for rows in summary.values()]) for name in names}
    return summary


def mean_row(rows: list[Row]) -> Row:
    """The arithmetic mean of each number."""
    return {number: fmean(row[number] for row in rows) for number in rows[0]}


def make_table(task: str, rows: dict[str, Row]) -> Table:
    """The numbers of one task."""
    cells = [
        [
            name,
            f"{row['tokens_per_second']:.1f}",
            f"{row['to_plain']:.3f}",
            f"{row['to_static']:.3f}",
            f"{row['share_of_gap']:.1%}",
            *(f"{row[number]:.2f}" for number in NUMBERS[1:]),
        ]
        for name, row in rows.items()
    ]
    return Table(task, COLUMNS, cells)


# --- the plot ---


def plot(results: Analysis) -> bytes:
    """A PNG, a row for every way to decide: milliseconds per token by part; how often which depth; which size."""
    from matplotlib.figure import Figure

    names = list(next(iter(results.values())))
    columns = {name: [spent[name] for spent in results.values()] for name in names}
    figure = Figure(figsize=(13, 1.4 + 0.42 * len(names)), layout="constrained")
    bars, depths, sizes = figure.subplots(1, 3, sharey=True, width_ratios=(5, 4, 4))
    draw_time(bars, columns)
    deepest = max(max(found.depths, default=0) for row in columns.values() for found in row)
    depth_labels = ["plain", *map(str, range(deepest + 1))]
    draw_shares(depths, [depth_shares(row, deepest) for row in columns.values()], depth_labels)
    depths.set(title="depth, share of cycles", xlabel="expansions")
    size_labels = ["plain", *(bin_label(low, high) for low, high in pairwise(SIZE_BINS))]
    draw_shares(sizes, [size_shares(row) for row in columns.values()], size_labels)
    sizes.tick_params(axis="x", labelrotation=30)
    sizes.set(title="size, share of cycles", xlabel="candidates verified")
    # The shades turn the rows so that the first is on top, for all three.
    bars.set_yticks(range(len(names)), names)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower left", ncols=len(PARTS), frameon=False)
    return png(figure)


def draw_time(axes: Axes, columns: dict[str, list[Spent]]) -> None:
    """Stacked bars: the mean over the tasks of the milliseconds per token, by part."""
    left = np.zeros(len(columns))
    for part in PARTS:
        values = np.array([1e3 * fmean(s.seconds[part] / s.tokens for s in row) for row in columns.values()])
        axes.barh(range(len(columns)), values, 0.7, left, label=LABELS[part], color=COLOURS[part])
        left += values
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.2f}", va="center", fontsize=8)
    axes.set_xlim(right=1.15 * float(left.max()))
    axes.set(title="where the time goes", xlabel="milliseconds per token")
    axes.spines[["top", "right"]].set_visible(False)


def draw_shares(axes: Axes, rows: list[NDArray[np.float64]], labels: list[str]) -> None:
    """A row of shades for every way, with the share in percent where it is at least 1 %."""
    shares = np.stack(rows)
    axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    for row, column in np.argwhere(shares >= 0.01).tolist():
        share = shares[row, column]
        colour = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.tick_params(left=False)


def depth_shares(row: Sequence[Spent], deepest: int) -> NDArray[np.float64]:
    """Shares of plain cycles and of the depths 0 … deepest, the mean over the tasks."""
    found = [shares([spent.depths.get(depth, 0) for depth in range(deepest + 1)], spent.cycles) for spent in row]
    return np.asarray(np.mean(found, axis=0))


def size_shares(row: Sequence[Spent]) -> NDArray[np.float64]:
    """Shares of plain cycles and of the sizes between each two of `SIZE_BINS`, the mean over the tasks."""
    edges, found = np.array(SIZE_BINS) + 0.5, []
    for spent in row:
        counts, _ = np.histogram(list(spent.sizes), edges, weights=list(spent.sizes.values()))
        found.append(shares(counts.tolist(), spent.cycles))
    return np.asarray(np.mean(found, axis=0))


def shares(counts: list[int], cycles: int) -> NDArray[np.float64]:
    """Of all cycles: first of those that are in no count, which are plain, then of each count."""
    return np.array([cycles - sum(counts), *counts], dtype=np.float64) / cycles


def bin_label(low: int, high: int) -> str:
    """Sizes above `low`, up to `high`."""
    return str(high) if high == low + 1 else f"{low + 1}-{high}"
