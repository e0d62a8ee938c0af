"""Reads evaluation questions: `{data folder}/{task}/question.jsonl`, one conversation a line; or fetches them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltd.common.json_files import parse_json
from ltd.errors import InputError
from ltd.evaluation.sources import expand_tasks, fetch

TurnKey = tuple[str, str, int]
TASKS = ("mt_bench", "gsm8k", "alpaca", "qa")


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation's user side.

    Attributes:
        task: the folder it came from.
        question_id: as the file names it, or else its line number.
        turns: what the user says, turn by turn.
    """

    task: str
    question_id: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation, counted from 0."""

    question: Question
    number: int

    @property
    def key(self) -> TurnKey:
        """What names it in files: task, question and number."""
        return self.question.task, self.question.question_id, self.number

    @property
    def title(self) -> str:
        """What names it in messages."""
        return f"{self.question.task}, question {self.question.question_id}, turn {self.number + 1}"

    @property
    def asked(self) -> tuple[str, ...]:
        """What the user has said by then."""
        return self.question.turns[: self.number + 1]

    @property
    def before(self) -> list[TurnKey]:
        """The keys of the earlier turns."""
        return [(self.question.task, self.question.question_id, number) for number in range(self.number)]


def all_turns(questions: Sequence[Question]) -> list[Turn]:
    """Every turn, conversation by conversation."""
    return [Turn(question, number) for question in questions for number in range(len(question.turns))]


def load_questions(data_dir: Path | None, tasks: Sequence[str], limit: int | None = None) -> list[Question]:
    """Reads the first `limit` questions of every task (None: all); without a folder, those of well-known tasks by name.

    Raises:
        InputError: a folder or file is missing, a line is not a question (the message names file and line), a task is
            named twice, or `limit` is below 1; without a folder also as `ltd.evaluation.sources.fetch`.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it counts the questions of a task, so it must be at least 1")
    tasks = expand_tasks(data_dir, tasks)
    if not tasks or len(set(tasks)) != len(tasks):
        raise InputError(f"the tasks are {', '.join(tasks) or 'none'}; name each task once")
    if data_dir is None:
        data_dir = fetch(tasks)
    if not data_dir.is_dir():
        raise InputError(f"there is no data folder {data_dir}; it must hold TASK/question.jsonl for every task")
    files = [question_file(data_dir, task) for task in tasks]
    return [question for task, file in zip(tasks, files, strict=True) for question in read_task(task, file)[:limit]]


def question_file(data_dir: Path, task: str) -> Path:
    """The file of one task, or InputError naming the tasks that are there."""
    file = data_dir / task / "question.jsonl"
    if not file.is_file():
        present = sorted(path.parent.name for path in data_dir.glob("*/question.jsonl"))
        raise InputError(f"there is no {file}; {data_dir} holds these tasks: {', '.join(present) or 'none'}")
    return file


def read_task(task: str, file: Path) -> list[Question]:
    """All questions of one file, in file order."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} as UTF-8 text: {error}") from error
    questions = [parse_line(task, file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"{file} holds no question")
    seen: set[str] = set()
    for question in questions:
        if question.question_id in seen:
            raise InputError(f"{file} has two questions with question_id {question.question_id}; ids must differ")
        seen.add(question.question_id)
    return questions


def parse_line(task: str, file: Path, number: int, line: str) -> Question:
    """One line of a question file; `number` counts from 1."""
    entry: Any = parse_json(line, object, f"{file} line {number}")
    turns = entry.get("turns") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise InputError(f'{file} line {number} has no "turns"; it must be a list of one or more non-empty strings')
    return Question(task, str(entry.get("question_id", number)), tuple(turns))


def fingerprint(questions: Sequence[Question]) -> str:
    """A short hash of the questions, to tell whether two runs asked the same."""
    text = json.dumps([(question.task, question.question_id, question.turns) for question in questions])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
