"""The benchmark of servers: its table from given answers, and from end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import serving
from serving import OURS, PLAIN, SERVED, Answer


def test_ways_are_compared_answer_by_answer() -> None:
    times = {OURS: (1.0, 4.0, 2.0), SERVED: (2.0, 4.0, 1.0), PLAIN: (4.0, 8.0, 8.0)}
    answers = [
        Answer(way, "?", "b" if (way, place) == (PLAIN, 1) else "a", 8, seconds[place])
        for place in range(3)
        for way, seconds in times.items()
    ]
    assert serving.make_table(answers).rows == [
        [OURS, "4.0", "1.00x", "3 of 3"],
        [SERVED, "4.0", "1.00x", "3 of 3"],
        [PLAIN, "1.0", "0.25x", "2 of 3"],
    ]


def test_no_question_is_asked_of_one_twice() -> None:
    asked: list[str] = []

    def ask(question: str) -> tuple[str, int]:
        asked.append(question)
        return "a", 1

    answers = serving.measure({OURS: ask}, rounds=2)
    assert len(set(asked)) == len(asked) == 3 * len(serving.QUESTIONS)
    assert [answer.question for answer in answers] == asked[len(serving.QUESTIONS) :]


def test_from_end_to_end(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="what transformers serve needs is not installed, see requirements-dev.txt")
    serving.main(tmp_path, str(tiny_target("llama")), str(tiny_head("llama")), "float32", new_tokens=12, rounds=1)
    answers = json.loads((tmp_path / "results.json").read_text())["answers"]
    assert len(answers) == 3 * len(serving.QUESTIONS)
    for question in serving.QUESTIONS:
        texts = {answer["text"] for answer in answers if answer["question"] == f"1. {question}"}
        assert len(texts) == 1  # in float32 all three say the same
