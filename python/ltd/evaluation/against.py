"""Every method of a run beside one of them, question by question."""

from __future__ import annotations

from collections.abc import Sequence

from ltd.common.journal import Record
from ltd.common.table import Table
from ltd.errors import InputError
from ltd.evaluation.method_names import split_label
from ltd.evaluation.scores import MEAN, Score, group, question_sums, scores

UNKNOWN = "-"


def find_method(methods: Sequence[str], asked: str) -> str:
    """The method of a run that a label, or the whole of its name, means.

    Raises:
        InputError: there is none.
    """
    for method in methods:
        if asked in (method, *split_label(method)):
            return method
    labels = ", ".join(split_label(method)[0] for method in methods)
    raise InputError(f"there is no method {asked!r} in this run to compare with; it has {labels}")


def compare_with(results: Record, against: str) -> Record:
    """Speeds relative to those of one method, from the same questions.

    Args:
        results: what `ltd.evaluation.compare.evaluate` returns.
        against: as for `find_method`.

    Returns:
        `against`, the method; `tasks` and `methods`, the others; `ratios`, by method and then by task ("mean" is that
        over the tasks): `ratio` of tokens per second and its `interval` (`ltd.evaluation.scores.intervals`, which draws
        the same questions for both), null where unknown; and `questions`, one record of `task`, `question_id` and
        `ratios` by method for every question.
    """
    methods = results["settings"]["methods"]
    baseline = find_method(methods, against)
    others = [method for method in methods if method != baseline]
    by_method = scores(results, baseline)
    return {
        "against": baseline,
        "tasks": results["settings"]["tasks"],
        "methods": others,
        "ratios": {method: {task: as_record(score) for task, score in by_method[method].items()} for method in others},
        "questions": question_ratios(results, baseline),
    }


def as_record(score: Score) -> Record:
    """A score's ratio and interval."""
    return {"ratio": score.speedup, "interval": None if score.interval is None else list(score.interval)}


def question_ratios(results: Record, baseline: str) -> list[Record]:
    """For every question the ratios of all other methods to the baseline; null where one of the two has no rate."""
    found = []
    for task, mine in group(results["samples"], "task").items():
        samples = group(mine, "method")
        tokens, seconds = question_sums(samples)
        for place, question in enumerate(group(next(iter(samples.values())), "question_id")):
            rates = {
                method: tokens[place, column] / seconds[place, column] if seconds[place, column] else 0.0
                for column, method in enumerate(samples)
            }
            base = rates.pop(baseline)
            ratios = {method: float(rate / base) if rate and base else None for method, rate in rates.items()}
            found.append({"task": task, "question_id": question, "ratios": ratios})
    return found


def against_table(comparison: Record) -> Table:
    """Ratios with their intervals by task, and on how many questions each method is faster."""
    tasks = [*comparison["tasks"], MEAN]
    rows = []
    for method in comparison["methods"]:
        ratios = [question["ratios"][method] for question in comparison["questions"]]
        known = [ratio for ratio in ratios if ratio is not None]
        cells = [ratio_and_interval(comparison["ratios"][method][task]) for task in tasks]
        rows.append([split_label(method)[0], *cells, f"{sum(ratio > 1 for ratio in known)} of {len(known)}"])
    title = f"Speed over {split_label(comparison['against'])[0]} on the same questions, 95 % interval"
    return Table(title, ["method", *tasks, "faster on"], rows)


def ratio_and_interval(found: Record) -> str:
    """A ratio and its interval for people."""
    if found["ratio"] is None:
        return UNKNOWN
    interval = found["interval"]
    span = "" if interval is None else f" ({interval[0]:.3f} - {interval[1]:.3f})"
    return f"{found['ratio']:.3f}x{span}"
