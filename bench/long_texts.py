r"""Makes questions about long given texts, for `ltd eval`: this project's own pages and programs, and new words.

Four tasks, in the form of `ltd.evaluation.questions`:

    summaries  a page of the documentation, 2,000 to 6,000 tokens, and the wish for a summary
    passages   a section of a page, and a question that it answers
    edits      a file of the source code, to be written out again with a small change
    novel      random words to go on with, where looking up cannot help

    python bench/long_texts.py out/long-texts
    ltd eval --data-dir out/long-texts --tasks summaries,passages,edits,novel --out out/long \
        --methods none,static:1:4,both:0:2:8
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
CHARACTERS = 22_000  # of a page at most: about 6,000 tokens
SHORTEST = 7_000  # about 2,000 tokens
LETTERS = ("bcdfghjklmnprstvz", "aeiou")
NOVEL_QUESTIONS, NOVEL_WORDS = 20, 60


def pages() -> Iterator[str]:
    """The pages of the documentation, long ones cut into parts that are long enough."""
    for file in sorted(
        [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "bench/results").glob("*/README.md")]
    ):
        text = file.read_text(encoding="utf-8")
        parts = [text[first : first + CHARACTERS] for first in range(0, len(text), CHARACTERS)]
        yield from (part for part in parts if len(part) >= SHORTEST)


def summaries() -> Iterator[str]:
    """A page each."""
    for page in pages():
        yield f"Summarise the following page in ten sentences, in its own words where that is possible.\n\n{page}"


def passages() -> Iterator[str]:
    """A section with a title each."""
    for page in pages():
        for section in re.split(r"\n(?=## )", page)[1:]:
            title = section.splitlines()[0].removeprefix("## ").strip()
            if 1_200 <= len(section) <= 6_000:
                yield f"{section}\n\nWhat does this text say about {title.lower()}? Quote what is most important."


def edits() -> Iterator[str]:
    """A file of the package each, of a length that its answer can have."""
    for file in sorted((ROOT / "python/ltd").rglob("*.py")):
        code = file.read_text(encoding="utf-8")
        if 1_500 <= len(code) <= 3_500:
            task = "Rename the first function or class of this program to `renamed`, and write the program out."
            yield f"{task}\n\n```python\n{code}```"


def novel() -> Iterator[str]:
    """Words that nobody has written before."""
    generator = random.Random(0)
    for _ in range(NOVEL_QUESTIONS):
        words = [
            "".join(generator.choice(LETTERS[place % 2]) for place in range(generator.randint(4, 9)))
            for _ in range(NOVEL_WORDS)
        ]
        yield f"Here are invented words. Go on with a hundred more, none of them twice.\n\n{', '.join(words)},"


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the questions, a folder in it for each task.")],
    most: Annotated[int, typer.Option(min=1, help="Questions of a task at most.")] = 20,
) -> None:
    """Make questions about long given texts."""
    for task in (summaries, passages, edits, novel):
        questions = list(task())[:most]
        folder = out / task.__name__
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"question_id": number, "turns": [text]}) for number, text in enumerate(questions)]
        (folder / "question.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{task.__name__}: {len(questions)} questions")


if __name__ == "__main__":
    typer.run(main)
