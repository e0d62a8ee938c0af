"""Draws the pictures of `bench/results` again from the numbers that are stored beside them.

    python bench/redraw.py

Pictures whose numbers are not stored are left as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltd.common.files import write_bytes
from ltd.common.json_files import read_json
from ltd.common.table import png
from ltd.evaluation.chain_plots import pareto_points, plot_pareto
from ltd.evaluation.method_names import split_label
from ltd.evaluation.plots import plot_choices, plot_speed, plot_time
from ltd.evaluation.scores import MEAN, Drafted, Score, Spent
from peers_report import draw
from sampled_scores import draw as draw_calibration

RESULTS = Path(__file__).parent / "results"
Scores = dict[str, Any]  # of `ltd.evaluation.scores.all_scores`


def tasks(found: Scores) -> dict[str, dict[str, Score]]:
    """By method and task."""
    return {method: {task: Score(**row) for task, row in each["tasks"].items()} for method, each in found.items()}


def drafted(found: Scores) -> dict[str, Drafted]:
    """By method; JSON has made texts of the numbers that are keys."""
    return {method: Drafted(**{name: with_numbers(value) for name, value in each["drafted"].items()})
            for method, each in found.items()}  # fmt: skip


def with_numbers(value: Any) -> Any:
    """A dict with whole numbers as keys again, if they were; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {int(key) if key.lstrip("-").isdecimal() else key: count for key, count in value.items()}


def spent(found: Scores) -> dict[str, Spent]:
    """By method."""
    return {method: Spent(each["time"]["milliseconds"], each["time"]["prefill"]) for method, each in found.items()}


def by_label(found: Scores) -> Scores:
    """The same by the methods' labels."""
    return {split_label(method)[0]: each for method, each in found.items()}


def peers(readme: str) -> dict[str, dict[str, Score]]:
    """The rates and ratios in the table of peers, by row and task: all that is left of that run."""
    columns, _, *rows = ([cell.strip() for cell in line.strip("|\n ").split("|")] for line in readme.splitlines()
                         if line.startswith("|"))  # fmt: skip
    names = columns[1 : columns.index(MEAN) + 1]
    return {row[0]: dict(zip(names, map(rate_and_ratio, row[1:]), strict=False)) for row in rows}


def rate_and_ratio(cell: str) -> Score:
    """What `RATE / RATIOx` says; acceptance lengths are not in that table."""
    rate, ratio = cell.split(" / ")
    return Score(float(rate), 0.0, float(ratio.removesuffix("x")))


def pictures(results: Path = RESULTS) -> dict[Path, bytes]:
    """Every picture that can be drawn from stored numbers, by its file."""
    chains = read(results / "chains")["scores"]
    means = {method: row[MEAN] for method, row in tasks(chains).items()}
    greedy, sampled = (by_label(read(results / "comparison")[f"temperature {heat}"]["scores"]) for heat in (0, 1))
    return {
        results / "chains/pareto.png": plot_pareto(pareto_points(drafted(chains), means)),
        results / "comparison/speed.png": plot_speed(tasks(greedy)),
        results / "comparison/speed-1.png": plot_speed(tasks(sampled)),
        results / "comparison/time.png": plot_time(spent(greedy)),
        results / "comparison/choices.png": plot_choices(drafted(greedy)),
        results / "sampled/calibration.png": png(draw_calibration(read(results / "sampled"))),
        results / "peers/speed.png": png(
            draw(peers((results / "peers/README.md").read_text(encoding="utf-8")), "ltd, plain")
        ),
    }


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder."""
    file = folder / "results.json"
    return read_json(file, dict[str, Any], str(file))


if __name__ == "__main__":
    for file, picture in pictures().items():
        write_bytes(file, picture)
        print(file)
