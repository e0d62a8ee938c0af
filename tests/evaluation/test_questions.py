"""Question files: what is read, and what is complained about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltd.errors import InputError
from ltd.evaluation.questions import Question, load_questions


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two tasks, one of them with two turns."""
    for task, conversations in {"first": [["Hi there"], ["What now?"]], "second": [["Say a", "and b"]]}.items():
        folder = tmp_path / "data" / task
        folder.mkdir(parents=True)
        lines = [json.dumps({"question_id": 7 + number, "turns": turns}) for number, turns in enumerate(conversations)]
        (folder / "question.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_questions_are_read_in_order_and_limited(data: Path) -> None:
    questions = load_questions(data, ["second", "first"], limit=1)
    assert questions == [Question("second", "7", ("Say a", "and b")), Question("first", "7", ("Hi there",))]


def test_a_line_separator_inside_a_turn_does_not_end_the_line(data: Path) -> None:
    line = json.dumps({"turns": ["one\u2028two"]}, ensure_ascii=False)
    (data / "first" / "question.jsonl").write_text(line, encoding="utf-8")
    assert load_questions(data, ["first"])[0].turns == ("one\u2028two",)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "line 2 is not valid JSON"),
        ('{"question_id": 1}', "line 2 has no"),
        ('{"turns": []}', "line 2 has no"),
        ('{"turns": [3]}', "line 2 has no"),
        ("[]", "line 2 has no"),
        ('{"question_id": 7, "turns": ["again"]}', "two questions with question_id 7"),
    ],
)
def test_a_bad_line_is_named(data: Path, line: str, complaint: str) -> None:
    file = data / "first" / "question.jsonl"
    file.write_text('{"question_id": 7, "turns": ["fine"]}\n' + line + "\n")
    with pytest.raises(InputError, match=complaint) as caught:
        load_questions(data, ["first"])
    assert str(file) in str(caught.value)
