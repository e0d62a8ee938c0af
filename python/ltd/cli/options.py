"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TargetOption = Annotated[
    str | None, typer.Option(help="Local folder, GGUF file or hub name; SmolLM2-135M-Instruct if not given.")
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        help='Folder with an EAGLE-3 head; "lookup", to look tokens up in the text so far instead; or "none". If not '
        "given, the shipped head where it fits the target, and else lookup."
    ),
]
ChainOption = Annotated[str | None, typer.Option(help="Folder with a chain draft; the shipped one if not given.")]
DtypeOption = Annotated[str, typer.Option(help="auto (the fastest here), float32, bfloat16 or float16.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice if not given.")]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Most new tokens.")]
TemperatureOption = Annotated[float, typer.Option(help="0 is greedy.")]
DataDirOption = Annotated[Path, typer.Option(help="Folder that holds TASK/question.jsonl for every task.")]
TasksOption = Annotated[str, typer.Option(help="Names of tasks, with commas between.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of every task.")]


def names(text: str) -> tuple[str, ...]:
    """The names in a list with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
