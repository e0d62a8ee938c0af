"""Shows an analysis: tables for the terminal and for Markdown, JSON, and a plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ltd.common.files import write_bytes, write_text
from ltd.common.table import Table, png
from ltd.evaluation.choice_plots import depth_shares, draw_depths, draw_sizes, draw_time, size_shares
from ltd.evaluation.scores import MEAN
from ltd_rl.analysis.choices import OPTIMUM, yardstick
from ltd_rl.analysis.totals import PARTS, Analysis, ReplayedTotal, rates_of

NUMBERS = ("tokens_per_second", "acceptance_length", "mean_depth", "mean_size")
COLUMNS = ["", "tokens/s", "x plain", "x static", "of gap", "τ", "mean D", "mean V"]
LABELS = {"begin": "draft, at the root", "expand": "draft, expansions", "lookup": "lookup", "verify": "verification",
          "rest": "rest of the cycle", "plain": "plain step"}  # fmt: skip
COLOURS = {"begin": "#9ecae1", "expand": "#3182bd", "lookup": "#756bb1", "verify": "#e6550d", "rest": "#969696",
           "plain": "#31a354"}  # fmt: skip

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

    to_static, share_of_gap: beside the fastest fixed decision, see `ltd_rl.analysis.choices.yardstick`; the share is
    that of what the optimum has more tokens per second.
    """
    summary: dict[str, dict[str, Row]] = {}
    fixed = yardstick(rates_of(results))
    for (task, spent), rates in zip(results.items(), rates_of(results), strict=True):
        static = rates[fixed]
        gap = rates[OPTIMUM] - static
        summary[task] = {
            name: {
                "tokens_per_second": rate,
                "to_plain": rate / rates["plain"],
                "to_static": rate / static,
                "share_of_gap": (rate - static) / gap if gap > 0 else 0.0,
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
    draw_time(bars, [milliseconds(row) for row in columns.values()], LABELS, COLOURS)
    deepest = max(max(found.depths, default=0) for row in columns.values() for found in row)
    draw_depths(
        depths, [mean_shares(depth_shares(s.depths, s.cycles, deepest) for s in row) for row in columns.values()]
    )
    draw_sizes(sizes, [mean_shares(size_shares(s.sizes, s.cycles) for s in row) for row in columns.values()])
    # The shades turn the rows so that the first is on top, for all three.
    bars.set_yticks(range(len(names)), names)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower left", ncols=len(PARTS), frameon=False)
    return png(figure)


def milliseconds(row: Sequence[ReplayedTotal]) -> Row:
    """The mean over the tasks of the milliseconds per token, by part."""
    return {part: 1e3 * fmean(spent.seconds[part] / spent.tokens for spent in row) for part in PARTS}


def mean_shares(shares: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean over the tasks."""
    return np.asarray(np.mean(list(shares), axis=0))
