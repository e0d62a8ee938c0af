"""The numbers in the tables against hand-computed ones, and the files of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_samples import SETTINGS, sample
from rich.console import Console

from ltd.common.journal import Record
from ltd.common.table import Table
from ltd.common.terminal import terminal
from ltd.evaluation.chain_plots import family, pareto_points
from ltd.evaluation.plots import MANY, plot_speed
from ltd.evaluation.report import make_tables, write_report
from ltd.evaluation.scores import MEAN, Score, drafted, group, scores, spent

SAMPLES = [
    sample("a", "1", "none", [1] * 10, 1.0),  # 10 tokens/s
    sample("a", "2", "none", [1] * 30, 7.0),  # a: 40 tokens in 8 s = 5 tokens/s
    sample("a", "1", "eagle3", [2, 3, 5], 0.5),
    sample("a", "2", "eagle3", [4] * 5 + [2] * 5, 3.5),  # a: 40 tokens in 4 s = 10 tokens/s, 13 cycles
    sample("b", "1", "none", [1] * 8, 1.0),  # b: 8 tokens/s
    sample("b", "1", "eagle3", [4, 4], 0.25, identical_to_none=False),  # b: 32 tokens/s, 2 cycles
]


def test_scores_match_hand_computed_values() -> None:
    table = scores({"settings": SETTINGS, "samples": SAMPLES})
    assert table["none"]["a"].tokens_per_second == pytest.approx(5)
    assert table["none"]["a"].speedup == pytest.approx(1)
    assert table["eagle3"]["a"].speedup == pytest.approx(2)
    assert table["eagle3"]["a"].acceptance_length == pytest.approx(40 / 13)
    assert table["eagle3"]["b"].speedup == pytest.approx(4)
    assert table["eagle3"]["b"].acceptance_length == pytest.approx(4)
    assert table["eagle3"]["mean"].speedup == pytest.approx(3)
    assert table["eagle3"]["mean"].tokens_per_second == pytest.approx(21)
    assert table["eagle3"]["mean"].acceptance_length == pytest.approx((40 / 13 + 4) / 2)


def tables_of(results: Record) -> list[Table]:
    """All tables."""
    samples = group(results["samples"], "method")
    choices = {method: drafted(mine) for method, mine in samples.items()}
    return make_tables(results, scores(results), choices, {method: spent(mine) for method, mine in samples.items()})


def test_tables_say_the_scores() -> None:
    speed, spans, rate, choices, time = tables_of({"settings": SETTINGS, "samples": SAMPLES})
    assert speed.columns == ["method", "a", "b", "mean"]
    assert speed.rows == [["none", "1.00x / 1.00", "1.00x / 1.00", "1.00x / 1.00"],
                          ["eagle3", "2.00x / 3.08", "4.00x / 4.00", "3.00x / 3.54"]]  # fmt: skip
    assert spans.rows == [["none", "1.00 - 1.00", "-", "-"], ["eagle3", "2.00 - 2.00", "-", "-"]]
    assert rate.rows == [["none", "5.0", "8.0", "6.5"], ["eagle3", "10.0", "32.0", "21.0"]]
    # eagle3: 15 cycles, 60 candidates, 48 tokens, of which 33 were drafted
    assert choices.rows == [["none", "0.00", "0.00", "-", "100.0"], ["eagle3", "2.00", "4.00", "0.82", "31.2"]]
    assert time.rows == [["none", "25.0%", "0.0%", "62.5%", "0.0%", "12.5%", "0.500 s"],
                         ["eagle3", "25.0%", "0.0%", "62.5%", "0.0%", "12.5%", "0.500 s"]]  # fmt: skip
    assert "| eagle3 | 2.00x / 3.08 | 4.00x / 4.00 | 3.00x / 3.54 |" in speed.markdown()


def test_without_plain_decoding_there_is_no_speedup() -> None:
    drafted = [sample for sample in SAMPLES if sample["method"] == "eagle3"]
    speed, rate, *_ = tables_of({"settings": {**SETTINGS, "methods": ["eagle3"]}, "samples": drafted})
    assert speed.rows == [["eagle3", "- / 3.08", "- / 4.00", "- / 3.54"]]
    assert rate.title.startswith("Tokens per second")  # no table of intervals


def test_chain_methods_are_compared_by_what_they_discard(tmp_path: Path) -> None:
    chains = ("chain:2", "chain:4", "chain:specdecpp", "chain:specdecpp:threshold=0.7", "chain:heuristic")
    samples = [sample("a", "1", method, [2, 3], 1.0 + place) for place, method in enumerate(chains)]
    samples.append(sample("a", "1", "none", [1] * 5, 1.0))
    settings = {**SETTINGS, "tasks": ["a"], "methods": [*chains, "none"]}
    results = {"settings": settings, "samples": samples}
    choices = {method: drafted(mine) for method, mine in group(samples, "method").items()}
    points = pareto_points(choices, {method: row["mean"] for method, row in scores(results).items()})
    assert [point["method"] for point in points] == list(chains)
    assert points[1] == {"method": "chain:4", "family": "constant", "discarded_per_accepted": pytest.approx(5 / 3),
                         "calls_per_token": pytest.approx(0.4), "tokens_per_second": pytest.approx(2.5),
                         "speedup": pytest.approx(0.5)}  # fmt: skip
    assert [family(method) for method in chains] == ["constant"] * 2 + ["threshold"] * 2 + ["heuristic"]
    assert family("x=chain:sampler=noise:4") == family("chain:4:sampler=noise") == "constant"
    with (tmp_path / "terminal").open("w") as file:
        write_report(results, tmp_path, Console(file=file, width=120))
    assert json.loads((tmp_path / "pareto.json").read_text())[4]["family"] == "heuristic"
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_written(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w") as file:
        write_report({"settings": SETTINGS, "samples": SAMPLES}, tmp_path, Console(file=file, width=120))
    for text in ((tmp_path / "table.md").read_text(), (tmp_path / "terminal").read_text()):
        assert "2.00x / 3.08" in text
        assert "an abacus" in text
        assert "identical to plain decoding's" in text and "2 of 3" in text
    for name in ("plot.png", "time.png", "choices.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "pareto.png").exists()


@pytest.mark.parametrize("speedup", [1.5, None])
def test_speed_has_a_plot_for_few_methods_and_for_many(speedup: float | None) -> None:
    few, many = (
        {f"method {n}": {task: Score(90.0, 2.0, speedup, (1.2, 1.6) if n else None) for task in ("a", MEAN)}
         for n in range(count)} for count in (MANY, MANY + 20)
    )  # fmt: skip
    pictures = [plot_speed(few), plot_speed(many)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    heights = [int.from_bytes(picture[20:24], "big") for picture in pictures]
    assert heights[1] > 2 * heights[0]  # a row for every method


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = "[tuned]:x:=eagle3[/]"
    samples = [{**each, "method": method} for each in SAMPLES if each["method"] == "eagle3"]
    settings = {**SETTINGS, "methods": [method], "target": "/models/[old]/m"}
    write_report({"settings": settings, "samples": samples}, tmp_path, terminal(200))
    shown = capsys.readouterr().out
    assert "[tuned]:x:" in shown and "/models/[old]/m" in shown
