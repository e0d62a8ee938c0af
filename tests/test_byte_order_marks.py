"""A byte order mark, with which some editors begin a file, is no part of what it says."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ltd.cli.generate import read_prompt
from ltd.drafts.eagle3.files import read_config
from ltd.evaluation.questions import load_questions

MARK = b"\xef\xbb\xbf"


def test_in_a_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(MARK + "hé".encode())
    assert read_prompt(None, tmp_path / "prompt.txt") == "hé"


def test_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MARK + b"hi"), encoding="utf-8"))
    assert read_prompt("-", None) == "hi"


def test_in_a_question_file(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    lines = [json.dumps({"question_id": n, "turns": ["hi"]}) for n in (1, 2)]
    (tmp_path / "task/question.jsonl").write_bytes(MARK + "\n".join(lines).encode())
    assert [question.question_id for question in load_questions(tmp_path, ["task"])] == ["1", "2"]


def test_in_the_config_of_a_head(tiny_head: Callable[..., Path], tmp_path: Path) -> None:
    content = (tiny_head("llama") / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(MARK + content)
    assert read_config(tmp_path) == json.loads(content)
