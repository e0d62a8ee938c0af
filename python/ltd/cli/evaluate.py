"""`ltd eval` and `ltd check`: how fast, and is it the same text?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ltd.cli.options import (
    ChainOption,
    DataDirOption,
    DraftOption,
    DtypeOption,
    LimitOption,
    MaxNewTokensOption,
    TargetOption,
    TasksOption,
    TemperatureOption,
    ThreadsOption,
    names,
)
from ltd.evaluation.questions import TASKS

ALL_TASKS = ",".join(TASKS)
LOSSY = 1  # exit code of `ltd check`


def evaluate(
    data_dir: DataDirOption,
    out: Annotated[Path, typer.Option(help="Folder for the results; a rerun goes on where the last one was.")],
    tasks: TasksOption = ALL_TASKS,
    methods: Annotated[
        str,
        typer.Option(
            help="Commas between: none, eagle3, static:D:V, grid[:FILE], tuned, bundle:FOLDER, controller:FILE; ddd, "
            "svip, gammatune, disco, specdecpp, c2t (options behind colons, as ddd:size=6); chain:K, chain:heuristic, "
            "chain:specdecpp[:threshold=T]; transformers, transformers:assisted, transformers:lookup[:tokens=N]; or "
            "paper, the rows of the paper's table. LABEL=METHOD gives it another name in tables."
        ),
    ] = "none,eagle3",
    limit: LimitOption = None,
    turns: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many turns of every question; all if not given.")
    ] = None,
    max_new_tokens: MaxNewTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    seed: Annotated[int, typer.Option(help="Where sampling starts.")] = 0,
    target: TargetOption = None,
    draft: DraftOption = None,
    chain: ChainOption = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Measure speedup and acceptance length on questions: tables (also in table.md), results.json and plots.

    A method is a tree draft (none is plain decoding; eagle3 the static tree 8, 60; static:D:V any other; grid the best
    static one here, as ltd tune or a search in a FILE found it; tuned the learned policy used by default;
    bundle:FOLDER learned policies; controller:FILE as ltd analyze fits it; ddd, svip and gammatune rules; disco,
    specdecpp and c2t trained classifiers), a chain draft (of constant length K, or of a length decided token by token),
    or the generate of transformers itself (plain, assisted by the chain draft, or with prompt lookup).

    Adding methods to a finished run needs another --out: all methods of a run take turns, which makes them comparable.
    """
    from ltd.evaluation.compare import EvalConfig
    from ltd.evaluation.compare import evaluate as run
    from ltd.evaluation.report import write_report

    config = EvalConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        methods=names(methods),
        limit=limit,
        turns=turns,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        target=target,
        draft=draft,
        chain=chain,
        dtype=dtype,
        threads=threads,
    )
    write_report(run(config), out, Console())


def check(
    data_dir: DataDirOption,
    out: Annotated[Path, typer.Option(help="JSON file for the results; a rerun goes on where the last one was.")],
    tasks: TasksOption = ALL_TASKS,
    method: Annotated[str, typer.Option(help="What to check, named as for ltd eval.")] = "eagle3",
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 128,
    target: TargetOption = None,
    draft: DraftOption = None,
    chain: ChainOption = None,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
) -> None:
    """Compare the greedy text with that of transformers, token by token; exit code 1 if anything is wrong."""
    from ltd.evaluation.check import CheckConfig, is_lossless, verdict_table
    from ltd.evaluation.check import check as run

    config = CheckConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        method=method,
        limit=limit,
        max_new_tokens=max_new_tokens,
        target=target,
        draft=draft,
        chain=chain,
        dtype=dtype,
        threads=threads,
    )
    results = run(config)
    Console().print(verdict_table(results).rich())
    if not is_lossless(results):
        raise typer.Exit(LOSSY)
