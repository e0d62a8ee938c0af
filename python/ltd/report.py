"""Turns the samples of an evaluation into tables for the terminal and for Markdown, and into a plot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable

from ltd.files import write_bytes, write_text
from ltd.journal import Record
from ltd.runs import BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one task, prefill left out.

    Attributes:
        tokens_per_second: Σ tokens / Σ seconds over the task's answers.
        acceptance_length: τ, Σ tokens / Σ cycles.
        speedup: its tokens_per_second over the baseline's; None if that was not run.
    """

    tokens_per_second: float
    acceptance_length: float
    speedup: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Words in rows and columns; the first column is left-aligned, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    def rich(self) -> RichTable:
        """The table for the terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def write_report(results: Record, out: Path, console: Console) -> None:
    """Prints the tables and writes `table.md` and `plot.png` into the folder."""
    tables = make_tables(results)
    for table in tables:
        console.print(table.rich())
    notes = [describe(results["settings"]), *compare_answers(results["samples"])]
    for note in notes:
        console.print(note, highlight=False)
    write_text(out / "table.md", "\n".join([*(table.markdown() for table in tables), *(f"{note}\n" for note in notes)]))
    write_bytes(out / "plot.png", plot(results))


def scores(results: Record, baseline: str = BASELINE) -> dict[str, dict[str, Score]]:
    """By method, then by task; "mean" is the arithmetic mean over the tasks, as in the paper's table."""
    tasks, methods = results["settings"]["tasks"], results["settings"]["methods"]
    table: dict[str, dict[str, Score]] = {method: {} for method in methods}
    for task in tasks:
        groups = {m: [s for s in results["samples"] if s["task"] == task and s["method"] == m] for m in methods}
        plain = throughput(groups[baseline]) if baseline in groups else None
        for method, samples in groups.items():
            rate = throughput(samples)
            table[method][task] = Score(rate, acceptance_length(samples), rate / plain if plain else None)
    for row in table.values():
        row[MEAN] = mean_score(list(row.values()))
    return table


def throughput(samples: Iterable[Record]) -> float:
    """Σ tokens after the first / Σ seconds after the prefill; 0 for nothing."""
    samples = list(samples)
    seconds = sum(sample["decode_seconds"] for sample in samples)
    return sum(sum(sample["gains"]) for sample in samples) / seconds if seconds else 0.0


def acceptance_length(samples: Iterable[Record]) -> float:
    """Σ tokens gained / Σ cycles; 0 for nothing."""
    samples = list(samples)
    cycles = sum(sample["cycles"] for sample in samples)
    return sum(sum(sample["gains"]) for sample in samples) / cycles if cycles else 0.0


def mean_score(row: Sequence[Score]) -> Score:
    """The arithmetic mean of several scores."""
    speedups = [score.speedup for score in row if score.speedup is not None]
    return Score(
        fmean(score.tokens_per_second for score in row),
        fmean(score.acceptance_length for score in row),
        fmean(speedups) if len(speedups) == len(row) else None,
    )


def make_tables(results: Record) -> list[Table]:
    """Speedup and τ; tokens per second; where the time goes."""
    by_method = scores(results)
    columns = ["method", *results["settings"]["tasks"], MEAN]
    ratios = [[method, *map(ratio, row.values())] for method, row in by_method.items()]
    rates = [[method, *(f"{s.tokens_per_second:.1f}" for s in row.values())] for method, row in by_method.items()]
    return [
        Table("Speedup over plain decoding / acceptance length τ", columns, ratios),
        Table("Tokens per second, prefill left out", columns, rates),
        time_table(results),
    ]


def ratio(score: Score) -> str:
    """Speedup and τ for people."""
    speedup = "-" if score.speedup is None else f"{score.speedup:.2f}x"
    return f"{speedup} / {score.acceptance_length:.2f}"


def time_table(results: Record) -> Table:
    """The share of the decoding time that each part takes, over all tasks, and the mean seconds of a prefill."""
    samples = results["samples"]
    parts = [part for part in samples[0]["seconds"] if part != "prefill"]
    rows = []
    for method in results["settings"]["methods"]:
        mine = [sample for sample in samples if sample["method"] == method]
        seconds = {part: sum(sample["seconds"][part] for sample in mine) for part in parts}
        total = sum(seconds.values()) or 1.0
        prefill = fmean(sample["seconds"]["prefill"] for sample in mine)
        rows.append([method, *(f"{100 * seconds[part] / total:.1f} %" for part in parts), f"{prefill:.3f} s"])
    return Table("Share of the decoding time by part, and mean prefill", ["method", *parts, "prefill"], rows)


def describe(settings: Record) -> str:
    """One sentence: what ran, and on what."""
    where = settings.get("gpu") or f"{settings['processor']}, {settings['threads']} threads"
    heat = f"temperature {settings['temperature']}, seed {settings['seed']}" if settings["temperature"] else "greedy"
    return (
        f"Target {settings['target'] or 'by default'}, draft {settings['draft'] or 'as shipped'}, {settings['dtype']}, "
        f"{heat}, {settings['max_new_tokens']} new tokens, {settings['limit'] or 'all'} questions per task; "
        f"{where}, torch {settings['torch']}."
    )


def compare_answers(samples: Sequence[Record]) -> list[str]:
    """For every method but plain decoding, how many answers equal plain decoding's."""
    sentences = []
    for method in dict.fromkeys(sample["method"] for sample in samples):
        verdicts = [s["identical_to_none"] for s in samples if s["method"] == method]
        compared = [verdict for verdict in verdicts if verdict is not None]
        if compared:
            sentences.append(f"{method}: {sum(compared)} of {len(compared)} answers are identical to plain decoding's.")
    return sentences


def plot(results: Record) -> bytes:
    """A PNG: speedup per task and method as bars, τ written above each."""
    from matplotlib.figure import Figure

    by_method = scores(results)
    groups = [*results["settings"]["tasks"], MEAN]
    figure = Figure(figsize=(max(6.0, 0.5 * len(groups) * len(by_method) + 2), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(by_method)
    for number, (method, row) in enumerate(by_method.items()):
        places = [group + (number - (len(by_method) - 1) / 2) * width for group in range(len(groups))]
        bars = axes.bar(places, [score.speedup or 0.0 for score in row.values()], width * 0.92, label=method)
        axes.bar_label(bars, [f"{score.acceptance_length:.2f}" for score in row.values()], fontsize=8, padding=2)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("speedup over plain decoding")
    axes.set_title("Speedup (bars) and acceptance length τ (numbers)", fontsize=10)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(len(by_method), 4), frameon=False)
    return png(figure)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as the content of a file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getvalue()
