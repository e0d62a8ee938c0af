"""`ltd eval` and `ltd check`: how fast, and is it the same text?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ltd.cli.options import DataDir, Draft, Dtype, Limit, MaxNewTokens, Target, Tasks, Temperature, Threads, names
from ltd.questions import TASKS

ALL_TASKS = ",".join(TASKS)
LOSSY = 1  # exit code of `ltd check`


def evaluate(
    data_dir: DataDir,
    out: Annotated[Path, typer.Option(help="Folder for the results; a rerun goes on where the last one was.")],
    tasks: Tasks = ALL_TASKS,
    methods: Annotated[
        str,
        typer.Option(
            help="none (plain decoding), eagle3 (the static tree 8, 60), static:DEPTH:SIZE, bundle:FOLDER (learned "
            "policies), tuned (the learned policy that is used by default), controller:FILE (as ltd analyze fits it); "
            "commas between."
        ),
    ] = "none,eagle3",
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Where sampling starts.")] = 0,
    target: Target = None,
    draft: Draft = None,
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Measure speedup and acceptance length on questions: a table, results.json, table.md and plot.png."""
    from ltd.evaluation import EvalConfig
    from ltd.evaluation import evaluate as run
    from ltd.report import write_report

    config = EvalConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        methods=names(methods),
        limit=limit,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        target=target,
        draft=draft,
        dtype=dtype,
        threads=threads,
    )
    write_report(run(config), out, Console())


def check(
    data_dir: DataDir,
    out: Annotated[Path, typer.Option(help="JSON file for the results; a rerun goes on where the last one was.")],
    tasks: Tasks = ALL_TASKS,
    method: Annotated[str, typer.Option(help="What to check, named as for ltd eval.")] = "eagle3",
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 128,
    target: Target = None,
    draft: Draft = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Compare the greedy text with that of transformers, token by token; exit code 1 if anything is wrong."""
    from ltd.check import CheckConfig, is_lossless, verdict_table
    from ltd.check import check as run

    config = CheckConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        method=method,
        limit=limit,
        max_new_tokens=max_new_tokens,
        target=target,
        draft=draft,
        dtype=dtype,
        threads=threads,
    )
    results = run(config)
    Console().print(verdict_table(results).rich())
    if not is_lossless(results):
        raise typer.Exit(LOSSY)
