"""Whether the scores of sampled trees tell the truth: predicted against observed acceptance, level by level.

    python bench/sampled_scores.py --before TRACES --after TRACES --out DIR

The traces are of `ltd record`, of the same questions, temperatures and seed, before and after `ltd fit-sampling`. Both
hold the same texts. Writes `results.json` and `calibration.png`, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltd.common.files import write_bytes, write_text
from ltd.common.program import run_program
from ltd.common.table import Table, png
from ltd.errors import InputError
from ltd_rl.traces.calibration import calibration
from ltd_rl.traces.format import RecordedGeneration, load_traces, temperatures_of
from ltd_rl.traces.replay import replay
from ltd_rl.traces.samplings import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0, 1, 2, 3)
SIZES = ((0, 3), (1, 4), (2, 8), (4, 16))  # static trees
WHEN = {"before": "factor 1", "after": "fitted factors"}
Levels = dict[str, dict[str, Any]]


def measured(generations: Sequence[RecordedGeneration]) -> dict[str, Any]:
    """Calibration by level, and tau of static trees."""
    levels = {str(level): calibration(generations, level).to_dict() for level in LEVELS}
    taus = {}
    for depth, size in SIZES:
        gains = np.concatenate([replay(generation, (depth, size)).gains for generation in generations])
        taus[f"({depth}, {size})"] = round(float(gains.mean()), 4)
    return {"levels": levels, "tau": taus}


def compare(before: Sequence[RecordedGeneration], after: Sequence[RecordedGeneration]) -> dict[str, Any]:
    """By temperature, before and after. Raises InputError if these are traces of different texts."""
    texts = [[(g.task, g.question_id, g.turn, g.tokens.tolist()) for g in side] for side in (before, after)]
    if texts[0] != texts[1]:
        raise InputError("the two folders hold different texts; record both with the same settings")
    results = {}
    for temperature in temperatures_of(before):
        sides = [[g for g in side if g.sampling.temperature == temperature] for side in (before, after)]
        results[name_of(temperature)] = {when: measured(side) for when, side in zip(WHEN, sides, strict=True)}
    return results


def table(results: Mapping[str, Any]) -> Table:
    """Errors and sums by temperature and level."""
    rows = []
    for temperature, sides in results.items():
        for level in sides["before"]["levels"]:
            cells = [sides[when]["levels"][level] for when in WHEN]
            rows.append(
                [
                    f"{temperature}, level {level}",
                    f"{cells[0]['observed_per_tree']:.3f}",
                    *(f"{cell['predicted_per_tree']:.3f}" for cell in cells),
                    *(f"{cell['error']:.3f}" for cell in cells),
                ]
            )
    columns = ["temperature", "accepted", "predicted before", "after", "error before", "after"]
    return Table("Of a tree's candidates of a level, in sums over the level", columns, rows)


def draw(results: Mapping[str, Any]) -> Figure:
    """A row for each temperature, a column for each level: observed over predicted chance, before and after."""
    from matplotlib.figure import Figure

    hot = [temperature for temperature in results if float(temperature)]
    figure = Figure(figsize=(3.1 * len(LEVELS), 3.1 * len(hot)), layout="constrained")
    grid = figure.subplots(len(hot), len(LEVELS), squeeze=False, sharex=True, sharey=True)
    for row, temperature in zip(grid, hot, strict=True):
        for axes, level in zip(row, LEVELS, strict=True):
            curves(axes, {when: results[temperature][when]["levels"][str(level)] for when in WHEN})
            axes.set_title(f"temperature {temperature}, level {level}", fontsize=9)
        row[0].set_ylabel("observed")
    for axes in grid[-1]:
        axes.set_xlabel("predicted")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def curves(axes: Axes, sides: Levels) -> None:
    """Both curves of one level, beside what the truth would be. Bins of few candidates are noise and left out."""
    axes.plot([0, 1], [0, 1], color="#969696", linewidth=0.8, label="the truth")
    for (when, found), colour in zip(sides.items(), ("#e6550d", "#3182bd"), strict=True):
        kept = [n for n, count in enumerate(found["candidates"]) if count >= 15]
        points = [[found[name][n] for n in kept] for name in ("predicted", "observed")]
        axes.plot(*points, marker="o", markersize=3, color=colour, label=WHEN[when])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads both folders and writes the results."""
    return run_program(lambda: run(arguments))


def run(arguments: Sequence[str] | None) -> None:
    """`main` without what the system may say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("before", "after", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    results = compare(*(load_traces(folder).generations for folder in (given.before, given.after)))
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / "results.json", json.dumps(results, indent=1) + "\n")
    write_bytes(given.out / "calibration.png", png(draw(results)))
    print(table(results).markdown())


if __name__ == "__main__":
    sys.exit(main())
