"""Turns the samples of an evaluation into tables for the terminal and for Markdown, and into plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from ltd.common.files import write_bytes, write_text
from ltd.common.journal import Record
from ltd.common.table import Table
from ltd.evaluation.against import UNKNOWN, against_table, compare_with
from ltd.evaluation.chain_plots import is_chain, pareto_points, plot_pareto
from ltd.evaluation.method_names import split_label
from ltd.evaluation.plots import SOURCE_LABELS, plot_choices, plot_sources, plot_speed, plot_time
from ltd.evaluation.scores import (
    MEAN,
    RESAMPLES,
    TIME_PARTS,
    WHOLE,
    Drafted,
    Interval,
    Score,
    Spent,
    drafted,
    group,
    scores,
    spent,
)

FEW = 10  # questions; a bootstrap over fewer knows too little of how different questions are
T = TypeVar("T")
DRAFTED_NOTE = (
    "Mean D (expansions after the root's own; K - 1 for a chain) and mean V (candidates verified; K) are per cycle; a "
    "cycle that drafted nothing counts as D = 0, V = 0. Discarded: candidates that were verified and rejected."
)
INTERVAL_NOTE = (
    f"Intervals: bootstrap over the questions, {RESAMPLES} resamples, drawn within each task and alike for all methods."
)
TRANSFORMERS_NOTE = (
    "transformers is timed from outside, from the first new tokens to the last; its time has no parts, and what it "
    "drafts cannot be seen."
)

WORKERS_NOTE = (
    "Workers of Ray answered: each question by all methods in turns in the same one, so ratios are of one machine; "
    "tokens per second are over all machines."
)


def write_report(results: Record, out: Path, console: Console, against: str | None = None) -> None:
    """Prints the tables, and writes them and the plots into the folder.

    The files are `table.md`, `plot.png`, `time.png`, `choices.png`; where tokens are looked up, `sources.png`; with
    chain drafts, `pareto.json` and `pareto.png`; and, with a method to compare with, `against.json`.

    Raises:
        InputError: `against` is none of the methods.
    """
    samples = group(results["samples"], "method")
    by_name = scores(results)
    chosen = {method: drafted(samples[method]) for method in by_name}
    by_method, choices = labelled(by_name), labelled(chosen)
    times = labelled({method: spent(samples[method]) for method in by_name})
    tables = make_tables(results, by_method, choices, times)
    if against is not None:
        comparison = compare_with(results, against)
        tables.append(against_table(comparison))
        write_text(out / "against.json", json.dumps(comparison, indent=1) + "\n")
    for table in tables:
        console.print(table.rich())
    notes = make_notes(results)
    for note in notes:
        console.print(note, highlight=False)
    write_text(out / "table.md", "\n".join([*(table.markdown() for table in tables), *(f"{note}\n" for note in notes)]))
    write_bytes(out / "plot.png", plot_speed(by_method))
    write_bytes(out / "time.png", plot_time(times))
    write_bytes(out / "choices.png", plot_choices(choices))
    if any(row.sources for row in choices.values()):
        write_bytes(out / "sources.png", plot_sources(choices))
    if any(map(is_chain, chosen)):
        points = pareto_points(chosen, {method: row[MEAN] for method, row in by_name.items()})
        write_text(out / "pareto.json", json.dumps(points, indent=1) + "\n")
        write_bytes(out / "pareto.png", plot_pareto(points))


def labelled(by_name: dict[str, T]) -> dict[str, T]:
    """The same by the methods' labels."""
    return {split_label(name)[0]: value for name, value in by_name.items()}


def make_tables(
    results: Record,
    by_method: dict[str, dict[str, Score]],
    choices: dict[str, Drafted],
    times: dict[str, Spent],
) -> list[Table]:
    """Speedup and τ, the speedups' intervals where there are any, tokens per second, what was drafted, and time."""
    columns = ["method", *results["settings"]["tasks"], MEAN]

    def table(title: str, cell: Callable[[Score], str]) -> Table:
        return Table(title, columns, [[method, *map(cell, row.values())] for method, row in by_method.items()])

    tables = [
        table("Speedup over plain decoding / acceptance length τ", ratio),
        table("Speedup, 95 % interval", lambda score: span(score.interval)),
        table("Tokens per second, prefill left out", lambda score: f"{score.tokens_per_second:.1f}"),
        drafted_table(choices),
        time_table(times),
    ]
    if any(row.sources for row in choices.values()):
        tables.append(source_table(choices))
    has_intervals = any(score.interval for row in by_method.values() for score in row.values())
    return tables if has_intervals else [tables[0], *tables[2:]]


def ratio(score: Score) -> str:
    """Speedup and τ for people."""
    speedup = UNKNOWN if score.speedup is None else f"{score.speedup:.2f}x"
    return f"{speedup} / {score.acceptance_length:.2f}"


def span(interval: Interval | None) -> str:
    """An interval for people."""
    return UNKNOWN if interval is None else f"{interval[0]:.2f} - {interval[1]:.2f}"


def number(value: float | None, digits: int) -> str:
    """A number for people."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def drafted_table(choices: dict[str, Drafted]) -> Table:
    """What every method drafted, over all tasks."""
    columns = ["method", "mean D", "mean V", "discarded", "target calls"]
    rows = [
        [method, number(row.depth, 2), number(row.size, 2), number(row.discarded, 2), number(row.target_calls, 1)]
        for method, row in choices.items()
    ]
    return Table("What was drafted, all tasks: discarded per accepted one, target calls per 100 tokens", columns, rows)


def source_table(choices: dict[str, Drafted]) -> Table:
    """Where the tokens of a cycle come from, of the methods that look tokens up."""
    rows = [
        [method, *(f"{row.sources.get(source, 0.0):.2f}" for source in SOURCE_LABELS)]
        for method, row in choices.items()
        if row.sources
    ]
    return Table("Accepted candidates per cycle, by who proposed them", ["method", *SOURCE_LABELS], rows)


def time_table(times: dict[str, Spent]) -> Table:
    """The share of the decoding time that each part takes, over all tasks, and the mean seconds of a prefill."""
    rows = [
        [
            method,
            *(UNKNOWN if WHOLE in row.milliseconds else f"{row.shares[part]:.1%}" for part in TIME_PARTS),
            f"{row.prefill:.3f} s",
        ]
        for method, row in times.items()
    ]
    return Table("Share of the decoding time, all tasks, and mean prefill", ["method", *TIME_PARTS, "prefill"], rows)


def make_notes(results: Record) -> list[str]:
    """What one has to know to read the tables."""
    settings = results["settings"]
    samples = results["samples"]
    notes = [
        describe(settings, samples),
        *compare_answers(samples),
        DRAFTED_NOTE,
        INTERVAL_NOTE,
        *few_questions(samples),
    ]
    ordinary = any(split_label(method)[1].startswith("transformers") for method in settings["methods"])
    notes += [WORKERS_NOTE] if any("machine" in sample for sample in samples) else []
    return [*notes, TRANSFORMERS_NOTE] if ordinary else notes


def few_questions(samples: Sequence[Record]) -> list[str]:
    """A warning if some task has too few questions for its intervals to mean much; one sentence, or none."""
    counts = {task: len(group(mine, "question_id")) for task, mine in group(samples, "task").items()}
    few = [f"{task} ({count})" for task, count in counts.items() if count < FEW]
    if not few:
        return []
    return [f"Warning: fewer than {FEW} questions in {', '.join(few)}; an interval from so few is too narrow."]


def describe(settings: Record, samples: Sequence[Record] = ()) -> str:
    """One sentence: what ran, and on what; the samples of workers know that better than the settings."""
    nodes = {sample["machine"]["node"]: machine_name(sample["machine"]) for sample in samples if "machine" in sample}
    kinds = Counter(nodes.values())
    where = " and ".join(f"{count} of {kind}" for kind, count in kinds.items()) or machine_name(settings)
    heat = f"temperature {settings['temperature']}, seed {settings['seed']}" if settings["temperature"] else "greedy"
    turns = f", turns up to {settings['turns']}" if settings.get("turns") else ""
    return (
        f"Target {settings['target'] or 'by default'}, draft {settings['draft'] or 'as shipped'}, {settings['dtype']}, "
        f"{heat}, {settings['max_new_tokens']} new tokens, {settings['limit'] or 'all'} questions per task{turns}; "
        f"{where}, torch {settings['torch']}."
    )


def machine_name(facts: Record) -> str:
    """A machine in few words, from what `ltd.common.machine.machine_facts` gives."""
    return str(facts.get("gpu") or f"{facts['processor']}, {facts['threads']} threads")


def compare_answers(samples: Sequence[Record]) -> list[str]:
    """How many answers of every method with any to compare equal plain decoding's; one sentence, or none."""
    counts = []
    for method, mine in group(samples, "method").items():
        compared = [s["identical_to_none"] for s in mine if s["identical_to_none"] is not None]
        if compared:
            counts.append(f"{split_label(method)[0]} {sum(compared)} of {len(compared)}")
    return [f"Answers that are identical to plain decoding's: {', '.join(counts)}."] if counts else []
