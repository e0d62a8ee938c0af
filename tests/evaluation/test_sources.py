"""Questions by name: from local files in the form of the well-known ones, and what is said where there are none."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ltd.errors import InputError
from ltd.evaluation import sources
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.questions import TASKS, load_questions
from ltd.evaluation.report import write_report
from ltd.evaluation.run_config import RunConfig
from ltd.evaluation.sources import SOURCES, SUBJECTS, expand_tasks, fetch
from ltd_rl.traces.training_questions import training_folder
from ltd_rl.tuning.config import TuneConfig

TALKS = [["Why is the sky blue?"], ["Write\na “poem”.", "Now\u2028in \\n French."], ["How much is 3·4?"]]
CATEGORIES = {"anatomy": 90, "virology": 81}  # rows of each subject, in turns
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the package datasets")


def question_text(talks: list[list[str]]) -> str:
    """A question file as EAGLE and Spec-Bench have them; a reference only where there is one."""
    rows: list[dict[str, Any]] = [
        {"question_id": 81 + number, "category": "writing", "turns": turns} for number, turns in enumerate(talks)
    ]
    rows[-1]["reference"] = ["12"]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def mmlu_rows() -> list[dict[str, Any]]:
    """Rows as MMLU's, the subjects mixed."""
    most = max(CATEGORIES.values())
    return [
        {
            "question": f"Which of {subject} is number {number}?",
            "subject": subject,
            "choices": [f"the {letter}{number}" for letter in "abcd"],
            "answer": number % 4,
        }
        for number in range(most)
        for subject, count in CATEGORIES.items()
        if number < count
    ]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table with local places instead, a cache of its own, and the folder with the files."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for task in ("gsm8k", "spec_bench"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "question.jsonl").write_text(question_text(TALKS), encoding="utf-8")
        place = replace(SOURCES[task], files=str(tmp_path / task / "question.jsonl"), count=len(TALKS))
        monkeypatch.setitem(SOURCES, task, place)
    (tmp_path / "mmlu" / "all").mkdir(parents=True)
    (tmp_path / "mmlu" / "README.md").write_text("---\nconfigs:\n- config_name: all\n  data_files:\n"
                                                 "  - split: test\n    path: all/test-*\n---\n")  # fmt: skip
    table = pyarrow.Table.from_pylist(mmlu_rows())
    pyarrow.parquet.write_table(table, tmp_path / "mmlu" / "all" / "test-00000-of-00001.parquet")
    for subject in CATEGORIES:
        monkeypatch.setitem(
            SOURCES, f"mmlu:{subject}", replace(SOURCES[f"mmlu:{subject}"], path=str(tmp_path / "mmlu"))
        )
    sources.load_rows.cache_clear()
    return tmp_path


@needs_datasets
def test_questions_by_name_are_those_of_their_file(local: Path) -> None:
    for task in ("gsm8k", "spec_bench"):
        found = load_questions(None, [task])
        assert found == load_questions(local, [task])
        assert [question.turns for question in found] == [tuple(turns) for turns in TALKS]
        assert [question.question_id for question in found] == ["81", "82", "83"]
    assert [question.task for question in load_questions(None, ["spec_bench", "gsm8k"], 1)] == ["spec_bench", "gsm8k"]


@needs_datasets
def test_the_subjects_of_mmlu_have_their_first_80_rows(local: Path) -> None:
    for subject in CATEGORIES:
        found = load_questions(None, [f"mmlu:{subject}"])
        assert len(found) == 80 and [question.question_id for question in found] == [str(n) for n in range(80)]
        for number, question in enumerate(found):
            expected = (
                f"Which of {subject} is number {number}?\n"
                f"A. the a{number}\nB. the b{number}\nC. the c{number}\nD. the d{number}"
            )
            assert question.turns == (expected,)


@needs_datasets
def test_what_was_fetched_once_is_there_without_a_network(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_questions(None, ["gsm8k", "mmlu:anatomy"])

    def unreachable(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(sources, "load_rows", unreachable)
    assert load_questions(None, ["gsm8k", "mmlu:anatomy"]) == before
    with pytest.raises(AssertionError, match="the network was asked"):
        load_questions(None, ["mmlu:virology"])


def test_mmlu_is_a_task_of_every_subject_unless_a_folder_holds_it() -> None:
    assert expand_tasks(None, ["qa", "mmlu"]) == ("qa", *(f"mmlu:{subject}" for subject in SUBJECTS))
    assert len(SUBJECTS) == 57 == len(set(SUBJECTS)) and sorted(SUBJECTS) == list(SUBJECTS)
    assert expand_tasks(Path("data"), ["qa", "mmlu"]) == ("qa", "mmlu")
    assert len(RunConfig(None, Path("out"), ("mmlu",)).tasks) == 57
    assert RunConfig(Path("data"), Path("out"), ("mmlu",)).tasks == ("mmlu",)


def test_every_source_names_a_commit() -> None:
    assert set(TASKS) < set(SOURCES) and len(SOURCES) == 6 + 57
    for task, source in SOURCES.items():
        assert re.search("[0-9a-f]{40}", source.revision or source.files or ""), task
        assert source.count == (480 if task == "spec_bench" else 80)


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [
        (["gsm8k", "poems"], "there is no task 'poems' to fetch by name; name mt_bench, .*, mmlu or mmlu:SUBJECT"),
        (["mmlu:anatomi"], "MMLU has no subject 'anatomi'; its subjects are abstract_algebra, anatomy"),
        (["mmlu", "mmlu:anatomy"], "name each task once"),
        (["qa", "qa"], "name each task once"),
        ([], "the tasks are none"),
        (["../qa"], "no task '../qa'"),
    ],
)
def test_names_that_cannot_be(tasks: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "load_rows", None)  # nothing is fetched before
    with pytest.raises(InputError, match=complaint):
        load_questions(None, tasks)


def complaint_of(tasks: list[str]) -> str:
    """What is said of tasks that cannot be fetched, in one sentence."""
    sources.load_rows.cache_clear()
    with pytest.raises(InputError) as caught:
        load_questions(None, tasks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_network_and_no_package_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert re.match("HF_HUB_OFFLINE is set, and https://.*/gsm8k/.* give --data-dir", complaint_of(["gsm8k"]))
    assert re.match("HF_HUB_OFFLINE is set, and cais/mmlu is not", complaint_of(["mmlu:anatomy"]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    fake = type("Fake", (), {"load_dataset": unreachable, "__spec__": sys.__spec__})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    for task in ("gsm8k", "mmlu:anatomy"):
        assert re.match("cannot fetch questions from .*: no route to host; give --data-dir", complaint_of([task]))
    monkeypatch.delitem(sys.modules, "datasets")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "datasets" else found(name, *a))
    assert "need the package datasets; run `pip install datasets`, or give --data-dir" in complaint_of(["gsm8k"])
    assert list(tmp_path.iterdir()) == []


@needs_datasets
def test_other_rows_than_expected_are_told(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "qa", replace(SOURCES["gsm8k"], count=4))
    assert complaint_of(["qa"]).startswith(f"{local}/gsm8k/question.jsonl holds 3 questions of qa instead of 4;")
    (local / "gsm8k" / "question.jsonl").write_text('{"question": "Why?"}\n')
    assert "has other columns than gsm8k is made of: 'turns' is missing" in complaint_of(["gsm8k"])
    (local / "gsm8k" / "question.jsonl").write_text('{"turns": 3}\n')
    assert "has other columns than gsm8k is made of" in complaint_of(["gsm8k"])
    for turns in ([], ["Why?", None], [""]):
        (local / "gsm8k" / "question.jsonl").write_text(json.dumps({"turns": turns}) + "\n")
        assert "has other columns than gsm8k is made of: a question's turns are [" in complaint_of(["gsm8k"])
    (local / "gsm8k" / "question.jsonl").write_text("<html>not found</html>\n")
    assert complaint_of(["gsm8k"]).startswith(f"cannot fetch questions from {local}/gsm8k/question.jsonl: ")
    assert not (local / "cache").exists()


@needs_datasets
def test_a_cache_that_cannot_be_written(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (local / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(local / "file"))
    assert "set XDG_CACHE_HOME to a folder that is writable" in complaint_of(["gsm8k"])


@needs_datasets
def test_an_evaluation_without_a_folder(
    local: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]
) -> None:
    config = EvalConfig(
        data_dir=None,
        out=local / "out",
        tasks=("gsm8k", "mmlu:anatomy"),
        methods=("none", "static:2:4"),
        limit=2,
        max_new_tokens=3,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
    )
    results = evaluate(config)
    assert [sample["task"] for sample in results["samples"][::2]] == ["gsm8k"] * 3 + ["mmlu:anatomy"] * 2
    write_report(results, config.out, Console(quiet=True))
    assert "mmlu:anatomy" in (config.out / "table.md").read_text()


@needs_datasets
def test_training_tasks_by_name(local: Path) -> None:
    folder = training_folder(TuneConfig(tasks=("gsm8k",)), local / "work")
    assert folder == fetch(["gsm8k"]) and not (local / "work").exists()
    assert load_questions(folder, ["gsm8k"]) == load_questions(local, ["gsm8k"])
    assert training_folder(TuneConfig(data_dir=local, tasks=("gsm8k",)), local / "work") == local
    training_folder(TuneConfig(tasks=("humaneval",)), local / "work")
    assert load_questions(local / "work", ["humaneval"])[0].question_id == "HumanEval/0"
