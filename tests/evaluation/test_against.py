"""Methods beside one of them: ratios and intervals against a plain loop, and what a reader is warned of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_samples import SETTINGS, sample
from rich.console import Console

from ltd.common.journal import Record
from ltd.errors import InputError
from ltd.evaluation.against import against_table, compare_with, find_method
from ltd.evaluation.report import few_questions, write_report
from ltd.evaluation.scores import RESAMPLES

METHODS = ["none", "small=static:1:3", "x"]


def random_results(generator: np.random.Generator, questions: int, tasks: tuple[str, ...] = ("a", "b")) -> Record:
    """Questions that differ by a lot, for three methods that hardly differ."""
    samples = [
        sample(task, str(q), method, [2, 3, 1], float(hardness * generator.uniform(0.9, 1.1)))
        for task in tasks
        for q, hardness in enumerate(generator.uniform(0.2, 5, questions))
        for method in METHODS
    ]
    return {"settings": {**SETTINGS, "tasks": list(tasks), "methods": METHODS}, "samples": samples}


def seconds_of(results: Record, task: str, method: str) -> list[float]:
    """Of every question, in order."""
    return [s["decode_seconds"] for s in results["samples"] if (s["task"], s["method"]) == (task, method)]


@given(seed=st.integers(0, 1000), questions=st.integers(2, 12), against=st.sampled_from(["none", "small", "x"]))
def test_ratios_and_intervals_are_those_of_a_plain_loop(seed: int, questions: int, against: str) -> None:
    results = random_results(np.random.default_rng(seed), questions, tasks=("a",))
    baseline = find_method(METHODS, against)
    comparison = compare_with(results, against)
    assert comparison["methods"] == [method for method in METHODS if method != baseline]
    base = seconds_of(results, "a", baseline)
    draws = np.random.default_rng(0).multinomial(questions, [1 / questions] * questions, size=RESAMPLES)
    for method in comparison["methods"]:
        mine = seconds_of(results, "a", method)
        # All answers have as many tokens, so that a ratio of rates is one of seconds.
        found = comparison["ratios"][method]["a"]
        assert found["ratio"] == pytest.approx(sum(base) / sum(mine))
        resampled = [np.dot(draw, base) / np.dot(draw, mine) for draw in draws]
        assert found["interval"] == pytest.approx(np.percentile(resampled, [2.5, 97.5]).tolist())
        by_question = [question["ratios"][method] for question in comparison["questions"]]
        assert by_question == pytest.approx([theirs / own for theirs, own in zip(base, mine, strict=True)])


def test_what_a_question_costs_both_does_not_widen_the_interval() -> None:
    results = random_results(np.random.default_rng(2), 20)
    paired = compare_with(results, "small")["ratios"]["x"]["mean"]["interval"]
    shuffled = json.loads(json.dumps(results))
    others = [s for s in shuffled["samples"] if s["method"] == "x"]
    for mine, seconds in zip(others, [s["decode_seconds"] for s in reversed(others)], strict=True):
        mine["decode_seconds"] = seconds
    unpaired = compare_with(shuffled, "small")["ratios"]["x"]["mean"]["interval"]
    assert paired[1] - paired[0] < 0.2 * (unpaired[1] - unpaired[0])


def test_the_table_says_ratio_interval_and_on_how_many_questions() -> None:
    times = {"none": (1.0, 4.0), "small=static:1:3": (0.5, 2.0), "x": (2.0, 2.0)}
    samples = [sample("a", str(q), method, [2, 2], times[method][q]) for q in range(2) for method in METHODS]
    results = {"settings": {**SETTINGS, "tasks": ["a"], "methods": METHODS}, "samples": samples}
    table = against_table(compare_with(results, "none"))
    assert table.columns == ["method", "a", "mean", "faster on"]
    assert table.rows[0] == ["small", "2.000x (2.000 - 2.000)", "2.000x (2.000 - 2.000)", "2 of 2"]
    assert table.rows[1][0] == "x" and table.rows[1][1].startswith("1.250x (") and table.rows[1][-1] == "1 of 2"


def test_an_answer_of_one_token_has_no_ratio() -> None:
    samples = [
        sample("a", "1", method, [] if method == "x" else [1], 0.0 if method == "x" else 1.0) for method in METHODS
    ]
    results = {"settings": {**SETTINGS, "tasks": ["a"], "methods": METHODS}, "samples": samples}
    assert compare_with(results, "none")["questions"][0]["ratios"]["x"] is None
    assert against_table(compare_with(results, "x")).rows[0] == ["none", "-", "-", "0 of 0"]


@pytest.mark.parametrize(("asked", "found"), [("none", "none"), ("small", METHODS[1]), ("static:1:3", METHODS[1]),
                                              (METHODS[1], METHODS[1])])  # fmt: skip
def test_a_method_is_found_by_label_or_name(asked: str, found: str) -> None:
    assert find_method(METHODS, asked) == found


@pytest.mark.parametrize("asked", ["", "smal", "NONE", "static"])
def test_what_is_no_method_of_the_run_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match=r"no method .* in this run to compare with; it has none, small, x"):
        find_method(METHODS, asked)


@pytest.mark.parametrize(("counts", "named"), [({"a": 10, "b": 30}, None), ({"a": 9, "b": 10}, "in a (9);"),
                                               ({"a": 1, "b": 2}, "in a (1), b (2);")])  # fmt: skip
def test_few_questions_are_warned_of(counts: dict[str, int], named: str | None, tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        sample(task, str(q), method, [2], 1.0) for task, count in counts.items() for q in range(count)
        for method in METHODS]  # fmt: skip
    notes = few_questions(samples)
    assert (not notes) if named is None else (len(notes) == 1 and f"fewer than 10 questions {named}" in notes[0])
    settings = {**SETTINGS, "tasks": list(counts), "methods": METHODS}
    with (tmp_path / "terminal").open("w") as terminal:
        write_report({"settings": settings, "samples": samples}, tmp_path, Console(file=terminal, width=200), "x")
    for file in ("table.md", "terminal"):
        assert ("fewer than 10" in (tmp_path / file).read_text()) is (named is not None)
    assert json.loads((tmp_path / "against.json").read_text())["against"] == "x"
