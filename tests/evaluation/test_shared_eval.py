"""`ltd eval` by workers on other machines: the same answers, and every question on one machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from other_crew import OtherCrew

from ltd.drafts.opening import shipped_head
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.report import describe, make_notes
from ltd.evaluation.run_config import for_workers

TIMES = ("seconds", "decode_seconds", "tokens_per_second", "machine")  # what is another one in every run


@pytest.fixture
def config(data: Path, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> EvalConfig:
    """Methods of every kind that needs no chain, on a tiny random model."""
    return EvalConfig(
        data_dir=data,
        out=tmp_path / "out",
        tasks=("first", "second"),
        methods=("none", "eagle3", "ddd", "both:2:8:4", "transformers"),
        max_new_tokens=8,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
    )


def untimed(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on who answered."""
    return [{name: value for name, value in sample.items() if name not in TIMES} for sample in samples]


def test_others_answer_the_same(config: EvalConfig, tmp_path: Path) -> None:
    here = evaluate(replace(config, out=tmp_path / "here"))
    crew = OtherCrew()
    there = evaluate(config, crew=crew)
    assert untimed(there["samples"]) == untimed(here["samples"])
    lines = [json.loads(line) for line in (config.out / "samples.jsonl").read_text().splitlines()[1:]]
    kept = [json.loads(line) for line in (tmp_path / "here" / "samples.jsonl").read_text().splitlines()[1:]]
    assert untimed(lines) == untimed(kept)
    (units,) = crew.units
    assert [[piece.turn.question.question_id for piece in unit.pieces] for unit in units] == [
        [question] * turns * 5 for question, turns in (("7", 1), ("8", 1), ("7", 2), ("8", 1))
    ]
    assert there["settings"]["ray"] is True and there["settings"]["processor"] == "some processor"
    assert "ray" not in here["settings"] and "machine" not in here["samples"][0]
    for sample in there["samples"]:
        assert sample["machine"].keys() >= {"node", "processor", "cores", "threads", "torch"}


def test_a_question_that_was_half_done_is_done_again(config: EvalConfig) -> None:
    """Else its methods might be timed on two machines."""
    config = replace(config, methods=("none", "eagle3"))
    whole = evaluate(config, crew=OtherCrew())
    journal = config.out / "samples.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: 1 + 2 * 2 + 3]))  # of the third question 3 of 4 answers
    crew = OtherCrew()
    assert untimed(evaluate(config, crew=crew)["samples"]) == untimed(whole["samples"])
    assert [len(unit.pieces) for unit in crew.units[0]] == [4, 2]
    assert crew.units[0][0].before == {}
    crew = OtherCrew()
    evaluate(config, crew=crew)
    assert crew.units == []
    with pytest.raises(InputError, match="use the same settings"):
        evaluate(config)


def test_workers_get_names_that_mean_the_same_there(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(str(config.target))
    monkeypatch.chdir(folder.parent)
    sent = for_workers(replace(config, target=folder.name, dtype="auto", device="auto"))
    assert sent.target == str(folder) and sent.dtype in ("float32", "bfloat16") and sent.device == "cpu"
    assert sent.draft == config.draft
    assert for_workers(replace(config, draft=str(shipped_head()))).draft is None  # wherever it is there
    assert for_workers(replace(config, draft="lookup")).draft == "lookup"
    with pytest.raises(InputError, match="leave --threads out"):
        for_workers(replace(config, threads=1))
    with pytest.raises(InputError, match="leave --threads out"):
        evaluate(replace(config, threads=1), crew=OtherCrew())


def test_the_report_says_which_machines(config: EvalConfig) -> None:
    results = evaluate(replace(config, methods=("none", "eagle3")), crew=OtherCrew())
    for place, sample in enumerate(results["samples"]):
        sample["machine"] = {"node": f"n{place % 3}", "processor": "P" if place % 3 else "Q", "threads": 4}
    said = describe(results["settings"], results["samples"])
    assert "1 of Q, 4 threads and 2 of P, 4 threads, torch" in said
    assert any(note.startswith("Workers of Ray answered: each question by all methods") for note in make_notes(results))
