"""The plots of an evaluation: nothing overprints, nothing hides the rest, and only like is joined with like."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import SETTINGS, sample
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from rich.console import Console

from ltd.errors import InputError
from ltd.evaluation.chain_plots import draw_pareto, plot_pareto, series
from ltd.evaluation.choice_plots import draw_time
from ltd.evaluation.plots import MANY, MANY_BARS, MARKS, REACH, TIME_COLOURS, TIME_LABELS, draw_speed
from ltd.evaluation.report import write_report
from ltd.evaluation.scores import MEAN, WHOLE, Score, spent

ROOT = Path(__file__).parents[2]


def point(method: str, discarded: float, calls: float) -> dict[str, Any]:
    """A record of `pareto_points`."""
    return {"method": method, "discarded_per_accepted": discarded, "calls_per_token": calls,
            "tokens_per_second": 100 * calls, "speedup": 2 - calls}  # fmt: skip


def texts(figure: Figure) -> list[list[Annotation]]:
    """The annotations that say something, by axes, once everything has its place."""
    figure.draw_without_rendering()
    return [[t for t in axes.texts if isinstance(t, Annotation) and t.get_text()] for axes in figure.axes]


def overprinted(labels: list[Annotation]) -> list[tuple[str, str]]:
    """Pairs of labels of which one covers the other."""
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


# --- chains ---


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("chain:3", ("constant K", 3)),
        ("x=chain:12", ("constant K", 12)),
        ("chain:12:sampler=noise", ("constant K, noise", 12)),
        ("chain:specdecpp:sampler=noise", ("specdecpp, sampler=noise, by threshold", 0.3)),
        ("chain:heuristic", ("heuristic", None)),
        ("chain:heuristic:most=4", ("heuristic, most=4", None)),
        ("chain:specdecpp", ("specdecpp, by threshold", 0.3)),
        ("chain:specdecpp:least=2:threshold=0.8", ("specdecpp, by threshold", 0.8)),
        ("y=chain:specdecpp:least=1:threshold=0.8", ("specdecpp, least=1, by threshold", 0.8)),
    ],
)
def test_only_one_number_tells_the_points_of_a_line_apart(method: str, expected: tuple[str, float | None]) -> None:
    assert series(method) == expected


def test_a_line_goes_along_its_number_and_joins_nothing_else() -> None:
    points = [
        point("chain:specdecpp:threshold=0.9", 1, 0.5),
        point("chain:specdecpp", 3, 0.6),
        point("chain:specdecpp:threshold=0.5", 2, 0.9),
        point("chain:specdecpp:least=1:threshold=0.6", 2, 0.7),
    ]
    lines = {str(line.get_label()): line.get_xydata() for line in draw_pareto(points).axes[0].lines}
    assert {name: data.tolist() for name, data in lines.items()} == {
        "specdecpp, by threshold": [[3, 0.6], [2, 0.9], [1, 0.5]],
        "specdecpp, least=1, by threshold": [[2, 0.7]],
    }


@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8),
    st.sampled_from([1.0, 0.01]),
)
def test_labels_do_not_overprint_each_other(places: list[tuple[int, int]], spread: float) -> None:
    methods = [f"chain:{k + 1}" if k % 2 else f"chain:specdecpp:threshold=0.{k + 11}" for k in range(len(places))]
    points = [point(method, 2 + spread * x, 0.5 + 0.1 * spread * y)
              for method, (x, y) in zip(methods, places, strict=True)]  # fmt: skip
    for labels in texts(draw_pareto(points)):
        assert len(labels) == len(points)
        assert overprinted(labels) == []


def test_points_at_one_place_are_all_labelled() -> None:
    points = [point(f"chain:{k}", 2.0, 0.5) for k in range(1, 14)]
    assert all(overprinted(labels) == [] for labels in texts(draw_pareto(points)))
    assert plot_pareto(points).startswith(b"\x89PNG")


# --- speed ---


def table(methods: int, interval: tuple[float, float] | None, wild: tuple[float, float]) -> dict[str, dict[str, Score]]:
    """Methods with the same scores, of which the second has another interval."""
    return {f"m{n}": {task: Score(90.0, 2.34, 1.0 + 0.1 * n, wild if n == 1 else interval)
                      for task in ("a", "b", MEAN)} for n in range(methods)}  # fmt: skip


@pytest.mark.parametrize("methods", [3, MANY + 3])
@pytest.mark.parametrize("wild", [44.0, 1e6])
def test_a_wild_interval_does_not_hide_the_others(methods: int, wild: float) -> None:
    by_method = table(methods, (0.9, 1.3), (0.2, wild))
    largest = 1.0 + 0.1 * (methods - 1)
    figure = draw_speed(by_method)
    (axes,) = figure.axes
    (labels,) = texts(figure)
    end = axes.get_ylim()[1] if methods <= MANY else axes.get_xlim()[1]
    assert largest < end < 1.4 * REACH * largest
    assert overprinted(labels) == []
    assert any(f"{wild:.3g}" in label.get_text() for label in labels)  # cut off, and said


@pytest.mark.parametrize("methods", [3, MANY + 3])
def test_an_ordinary_interval_is_drawn_whole(methods: int) -> None:
    figure = draw_speed(table(methods, (0.9, 1.3), (0.8, 1.4)))
    (labels,) = texts(figure)
    assert {label.get_text().removeprefix("τ ") for label in labels} == {"2.34"}
    drawn = [value for line in figure.axes[0].lines for value in (*line.get_xdata(), *line.get_ydata())]
    assert 1.4 in drawn and 0.8 in drawn


def test_numbers_stand_above_their_intervals() -> None:
    figure = draw_speed(table(2, (0.9, 1.5), (0.8, 1.4)))
    (labels,) = texts(figure)
    tops = [figure.axes[0].transData.transform((0, end))[1] for end in (1.5, 1.5, 1.5, 1.4, 1.4, 1.4)]
    assert all(label.get_window_extent().y0 > top for label, top in zip(labels, tops, strict=True))


def test_many_tasks_get_rows_in_place_of_bars_that_are_too_thin() -> None:
    tasks = [*(f"task {n}" for n in range(MANY_BARS // 4)), MEAN]
    figure = draw_speed({f"m{n}": {task: Score(9.0, 2.0, 1.1, (1.0, 1.2)) for task in tasks} for n in range(4)})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("methods", [2, MANY + 3])
def test_without_plain_decoding_the_rates_are_drawn(methods: int) -> None:
    figure = draw_speed({f"m{n}": {task: Score(90.0 + n, 2.0, None) for task in ("a", MEAN)} for n in range(methods)})
    (axes,) = figure.axes
    sizes = [bar.get_height() if methods <= MANY else bar.get_width() for bar in axes.patches]
    assert max(sizes) == 89.0 + methods
    assert "tokens per second" in (axes.get_ylabel() if methods <= MANY else axes.get_xlabel())


# --- time ---


def outside(task: str, question: str, seconds: float) -> dict[str, Any]:
    """A sample of `transformers`, which is timed from outside."""
    parts = {"prefill": 0.5, "draft": 0.0, "verify": 0.0, "other": 0.0, WHOLE: seconds}
    return {**sample(task, question, "transformers", [2, 2], seconds, depths=[], sizes=[]), "seconds": parts}


def test_time_from_outside_is_no_rest_of_a_cycle() -> None:
    assert spent([outside("a", "1", 2.0)]).milliseconds == pytest.approx(
        {"draft": 0, "lookup": 0, "verify": 0, "policy": 0, "rest": 0, WHOLE: 500}
    )
    times = [spent([sample("a", "1", "none", [1], 1.0)]), spent([outside("a", "1", 2.0)])]
    axes = Figure().add_subplot()
    draw_time(axes, [row.milliseconds for row in times], TIME_LABELS, TIME_COLOURS)
    drawn = {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in axes.containers}  # type: ignore[attr-defined]
    assert drawn["rest of the cycle"][1] == 0 < drawn["rest of the cycle"][0]
    assert drawn[TIME_LABELS[WHOLE]] == [0, 500]
    assert TIME_LABELS["policy"] not in drawn  # no such time anywhere


def test_tables_do_not_divide_time_from_outside(tmp_path: Path) -> None:
    results = {
        "settings": {**SETTINGS, "tasks": ["a"], "methods": ["none", "transformers"]},
        "samples": [sample("a", "1", "none", [1, 1], 1.0), outside("a", "1", 2.0)],
    }
    write_report(results, tmp_path, Console(quiet=True))
    assert "| transformers | - | - | - | - | - | 0.500 s |" in (tmp_path / "table.md").read_text()


# --- stored pictures ---


def test_stored_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    from redraw import read

    for content in (None, "{", "[]"):
        if content is not None:
            (tmp_path / "results.json").write_text(content)
        with pytest.raises(InputError, match=r"results\.json"):
            read(tmp_path)


def test_stored_pictures_are_drawn_from_stored_numbers() -> None:
    assert str(ROOT / "bench") in sys.path
    from redraw import pictures

    found = pictures()
    assert len(found) >= 6
    for file, picture in found.items():
        assert file.is_file() and picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("tasks", [2, len(MARKS), len(MARKS) + 1, 57])
def test_every_task_has_a_mark_in_every_row(tasks: int) -> None:
    score = Score(90.0, 2.0, 1.2, None)
    row = {f"t{n}": replace(score, speedup=1 + 0.01 * n) for n in range(tasks)} | {MEAN: score}
    (axes,) = draw_speed({f"m{n}": row for n in range(MANY + 1)}).axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) == MANY + 1]
    assert sorted(line.get_xdata()[0] for line in drawn) == pytest.approx([1 + 0.01 * n for n in range(tasks)])
    shown = axes.get_legend_handles_labels()[1]
    assert shown == [*([f"t{n}" for n in range(tasks)] if tasks <= len(MARKS) else ["a task"]), MEAN]
