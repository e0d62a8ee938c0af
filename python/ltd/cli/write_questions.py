"""`ltd write-questions`: questions that the target writes itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import DeviceOption, DtypeOption, TargetOption, ThreadsOption
from ltd.common.terminal import terminal


def write_questions(
    out: Annotated[Path, typer.Option(help="Data folder, for --data-dir; the questions are its task own.")],
    each: Annotated[int, typer.Option(help="Questions of every kind of text.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    target: TargetOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Let the target write questions of many kinds, to tune policies on; a rerun goes on."""
    from ltd.common.table import Table
    from ltd.training.data.own_questions import OwnQuestionsConfig, write_own_questions

    config = OwnQuestionsConfig(out, each, seed, target, device, dtype, threads)
    counts = write_own_questions(config)
    rows = [[kind, str(count)] for kind, count in counts.items()]
    terminal().print(Table("Questions that the target wrote", ["kind", "questions"], rows).rich())
    print(f"they are in {config.file}; give --data-dir {out} --tasks own", file=sys.stderr)
