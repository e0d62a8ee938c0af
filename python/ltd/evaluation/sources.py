"""Questions by name: where those of well-known tasks come from, fetched through the package `datasets`.

What is fetched becomes question files in the user's cache, one for each task, so that a network is needed once. The
tasks of the paper are the question files of EAGLE's repository, byte for byte those that EAGLE and its successors are
measured on; Spec-Bench is its own file, and MMLU is that of the Hugging Face hub.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ltd.common.files import cache_folder, write_text
from ltd.common.foreign_errors import reason_of
from ltd.errors import InputError

QUESTIONS = "questions-1"  # in the cache; a new number makes everybody fetch anew what another table would bring
EAGLE = "https://raw.githubusercontent.com/SafeAILab/EAGLE/cb7e0841fe0c206c6ed74a197ad5e2a1f13f5a2b/eagle/data"
SPEC_BENCH = (
    "https://raw.githubusercontent.com/hemingkx/Spec-Bench/fd2c1cd7d2201ef71db4c5f4e455008f017967bf/data/spec_bench"
)
MMLU, MMLU_REVISION = "mmlu", "c30699e8356da336a370243923dbaf21066bb9fe"
HUB_TIMEOUT_SECONDS = 10.0
ADVICE = "give --data-dir, a folder that holds TASK/question.jsonl"
# fmt: off
SUBJECTS = (
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology",
    "college_chemistry", "college_computer_science", "college_mathematics", "college_medicine", "college_physics",
    "computer_security", "conceptual_physics", "econometrics", "electrical_engineering", "elementary_mathematics",
    "formal_logic", "global_facts", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_european_history", "high_school_geography", "high_school_government_and_politics",
    "high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics", "high_school_physics",
    "high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history",
    "human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning",
    "management", "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition",
    "philosophy", "prehistory", "professional_accounting", "professional_law", "professional_medicine",
    "professional_psychology", "public_relations", "security_studies", "sociology", "us_foreign_policy", "virology",
    "world_religions",
)
# fmt: on

TableRow = Mapping[str, Any]  # values by column


def own_turns(row: TableRow) -> list[str]:
    """The turns of a row that is a question already."""
    return list(row["turns"])


def multiple_choice(row: TableRow) -> list[str]:
    """MMLU's question, and below it the answers to choose from, A to D."""
    answers = [f"{letter}. {answer}" for letter, answer in zip("ABCD", row["choices"], strict=True)]
    return ["\n".join([row["question"], *answers])]


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """Where the questions of one task come from; the arguments of `datasets.load_dataset`, and what is made of rows.

    Attributes:
        path: the data set's name on the Hugging Face hub, or "json" for files that lie elsewhere.
        count: of the task's rows the first so many are its questions.
        turns: what the user says, turn by turn, in a row.
        files: the files' address, which names a commit; None is the hub's data set.
        config, split, revision: of the data set.
        where: a column and its value in the task's rows; None takes all.
    """

    path: str
    count: int
    turns: Callable[[TableRow], list[str]] = own_turns
    files: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    where: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """Where that is, for people."""
        return self.files or f"{self.path} on the Hugging Face hub"


def _eagle(task: str) -> QuestionSource:
    return QuestionSource("json", 80, files=f"{EAGLE}/{task}/question.jsonl")


def _subject(name: str) -> QuestionSource:
    # All subjects are one small file, which is fetched once.
    return QuestionSource(
        "cais/mmlu", 80, multiple_choice, config="all", split="test", revision=MMLU_REVISION, where=("subject", name)
    )


SOURCES: dict[str, QuestionSource] = {
    **{task: _eagle(task) for task in ("mt_bench", "gsm8k", "alpaca", "qa", "humaneval")},
    "spec_bench": QuestionSource("json", 480, files=f"{SPEC_BENCH}/question.jsonl"),
    **{f"{MMLU}:{name}": _subject(name) for name in SUBJECTS},
}


def expand_tasks(data_dir: Path | None, tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks; where no folder holds them, `mmlu` stands for a task of each of its subjects."""
    if data_dir is not None:
        return tuple(tasks)
    subjects = [f"{MMLU}:{name}" for name in SUBJECTS]
    return tuple(each for task in tasks for each in (subjects if task == MMLU else [task]))


def fetch(tasks: Iterable[str]) -> Path:
    """A data folder with the question files of well-known tasks; fetches those that are not there yet.

    Args:
        tasks: names, see `SOURCES`, or `mmlu`.

    Raises:
        InputError: there is no such task, the package `datasets` is missing, the network or the data set is not in
            reach, the rows are not as expected, or the cache cannot be written.
    """
    named = expand_tasks(None, tuple(tasks))
    for task in named:
        check_known(task)
    folder = cache_folder() / QUESTIONS
    for task in named:
        file = folder / task / "question.jsonl"
        if not file.is_file():
            write_questions(file, question_lines(task, SOURCES[task]))
    return folder


def check_known(task: str) -> None:
    """Raises InputError unless the questions of a task can be fetched by its name."""
    if task in SOURCES:
        return
    subject = task.removeprefix(f"{MMLU}:")
    if subject != task:
        raise InputError(f"MMLU has no subject {subject!r}; its subjects are {', '.join(SUBJECTS)}")
    known = [name for name in SOURCES if ":" not in name]
    raise InputError(
        f"there is no task {task!r} to fetch by name; name {', '.join(known)}, {MMLU} or {MMLU}:SUBJECT, or {ADVICE}"
    )


def write_questions(file: Path, text: str) -> None:
    """Writes a question file; raises InputError if the cache cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise InputError(
            f"cannot write {file}: {error.strerror}; set XDG_CACHE_HOME to a folder that is writable"
        ) from error


def question_lines(task: str, source: QuestionSource) -> str:
    """A task's questions as the lines of a question file: the first so many of its rows, in their order.

    Raises:
        InputError: see `fetch`.
    """
    rows = load_rows(source.path, source.config, source.files, source.split, source.revision)
    try:
        if source.where is not None:
            column, value = source.where
            rows = rows.select([index for index, found in enumerate(rows[column]) if found == value])
        lines = [
            json.dumps({"question_id": row.get("question_id", number), "turns": checked(source.turns(row))}) + "\n"
            for number, row in zip(range(source.count), rows, strict=False)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source.place} has other columns than {task} is made of: {reason_of(error)}") from error
    if len(lines) < source.count:
        raise InputError(f"{source.place} holds {len(lines)} questions of {task} instead of {source.count}; {ADVICE}")
    return "".join(lines)


def checked(turns: list[str]) -> list[str]:
    """The turns of a question; raises ValueError if it has none, or others than texts."""
    if not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise ValueError(f"a question's turns are {turns}")
    return turns


@cache  # MMLU's subjects are parts of one
def load_rows(path: str, config: str | None, files: str | None, split: str, revision: str | None) -> Any:
    """The rows of a data set's split, by `datasets`, which keeps what it has downloaded.

    Args:
        path, config, files, split, revision: see `QuestionSource`; path or files may be local.

    Raises:
        InputError: the package is missing, or the data set is not in reach.
    """
    from huggingface_hub import HfApi, constants  # slow to import, as below

    is_local = Path(path).is_dir() if files is None else Path(files).is_file()
    if constants.HF_HUB_OFFLINE and not is_local:
        raise InputError(f"HF_HUB_OFFLINE is set, and {files or path} is not on this machine; unset it, or {ADVICE}")
    if importlib.util.find_spec("datasets") is None:
        raise InputError(f"questions by name need the package datasets; run `pip install datasets`, or {ADVICE}")
    try:
        if files is None and not is_local:  # says in seconds what `datasets` says after minutes of trying
            HfApi().dataset_info(path, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
        from datasets import load_dataset

        return load_dataset(path, config, data_files=files, split=split, revision=revision)
    except Exception as error:  # a network and a foreign package raise anything
        raise InputError(f"cannot fetch questions from {files or path}: {reason_of(error)}; {ADVICE}") from error
