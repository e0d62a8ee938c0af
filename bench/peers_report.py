"""The table and the plot of `peers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ltd.common.files import write_bytes, write_text
from ltd.common.journal import Record
from ltd.common.table import Table, png
from ltd.evaluation.report import describe
from ltd.evaluation.scores import MEAN, Score, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKGROUND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # no line goes through a label
COLOURS = {"transformers": "tab:blue", "llama.cpp": "tab:orange", "ltd": "tab:green"}


def write_report(results: Record, out: Path, console: Console) -> None:
    """Prints the table and writes `table.md` and `plot.png` into the folder."""
    table, notes = make_table(results), make_notes(results["settings"])
    console.print(table.rich())
    for note in notes:
        console.print(note, highlight=False)
    write_text(out / "table.md", "\n".join([table.markdown(), *(f"{note}\n" for note in notes)]))
    baseline = results["settings"]["baseline"]
    write_bytes(out / "plot.png", png(draw(scores(results, baseline), baseline)))


def make_table(results: Record) -> Table:
    """Rates with their ratios to plain ltd, and shares of equal texts."""
    rows = [
        [
            name,
            *(f"{score.tokens_per_second:.1f} / {ratio(score)}" for score in row.values()),
            share_of_same(results, name, "same_as_reference"),
            share_of_same(results, name, "same_as_plain"),
        ]
        for name, row in scores(results, results["settings"]["baseline"]).items()
    ]
    settings = results["settings"]
    columns = ["", *settings["tasks"], MEAN, f"same text as {settings['reference']}", "same as its own plain"]
    return Table(f"Tokens per second, prefill left out / ratio to {settings['baseline']}", columns, rows)


def share_of_same(results: Record, name: str, comparison: str) -> str:
    """How many texts of a row are the same, of all; "-" where there is nothing to compare."""
    verdicts = [sample[comparison] for sample in results["samples"] if sample["method"] == name]
    return "-" if None in verdicts else f"{sum(verdicts)} of {len(verdicts)}"


def make_notes(settings: Record) -> list[str]:
    """What one has to know to read the table."""
    versions = ", ".join(f"{package} {number}" for package, number in settings["versions"].items())
    notes = [describe(settings), f"{versions}."]
    if settings["llama_cpp_refusal"] is not None:
        return [*notes, settings["llama_cpp_refusal"]]
    return [
        *notes,
        f"llama.cpp quantised runs another model than the rest: the weights as they are in {settings['gguf']} "
        f"({settings['gguf_bytes'] / 1e6:.0f} MB), with activations quantised on the way. It has fewer bytes to read "
        f"per token, and its text is not expected to be the same. llama.cpp {settings['dtype']} runs the same file "
        "converted to the type of the others.",
        f"llama.cpp was compiled with {settings['llama_cpp_build']}.",
    ]


def draw(table: dict[str, dict[str, Score]], baseline: str) -> Figure:
    """A bar per row, the mean over the tasks; a dot per task; rate and ratio written at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.36 * len(table) + 1), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, row) in enumerate(table.items()):
        tasks = [score.tokens_per_second for task, score in row.items() if task != MEAN]
        colour = next(colour for engine, colour in COLOURS.items() if name.startswith(engine))
        axes.barh(place, row[MEAN].tokens_per_second, color=colour, alpha=0.8)
        axes.plot(tasks, [place] * len(tasks), "o", color="black", markersize=3, alpha=0.6)
        end = (max(tasks), place)
        text = f"{row[MEAN].tokens_per_second:.0f}  ({ratio(row[MEAN])})"
        axes.annotate(text, end, (6, 0), textcoords="offset points", va="center", fontsize=9, bbox=BACKGROUND)
    axes.axvline(table[baseline][MEAN].tokens_per_second, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.02)
    axes.set_xlabel("tokens per second, prefill left out (bar: mean over the tasks; dots: the tasks)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def ratio(score: Score) -> str:
    """The ratio to the baseline for people; "-" where the baseline has no rate."""
    return "-" if score.speedup is None else f"{score.speedup:.2f}x"
