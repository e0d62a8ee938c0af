"""`ltd eval` and `ltd check`: how fast, and is it the same text?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import (
    GREEDY,
    ChainOption,
    DataDirOption,
    DeviceOption,
    DraftOption,
    DtypeOption,
    LimitOption,
    MaxNewTokensOption,
    RayCpusOption,
    RayOption,
    TargetOption,
    TasksOption,
    TemperatureOption,
    ThreadsOption,
    names,
    refuse_unused,
)
from ltd.common.launch import launched_processes
from ltd.common.terminal import terminal
from ltd.evaluation.questions import TASKS

ALL_TASKS = ",".join(TASKS)
LOSSY = 1  # exit code of `ltd check`


def evaluate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results; a rerun goes on where the last one was.")],
    data_dir: DataDirOption = None,
    tasks: TasksOption = ALL_TASKS,
    methods: Annotated[
        str,
        typer.Option(
            help="Commas between; ltd methods lists them all. Options stand behind colons, as in ddd:size=6. paper "
            "stands for the rows of the paper's table. LABEL=METHOD gives a method another name in tables."
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
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    ray: RayOption = None,
    ray_cpus: RayCpusOption = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="One of the methods: also print every other one's speed over it, with intervals from the same "
            "questions for both. A finished run is read again, not repeated."
        ),
    ] = None,
) -> None:
    """Measure speedup and acceptance length on questions: tables (also in table.md), results.json and plots.

    A method is a tree draft with a way to decide how deep to draft and how much to verify, a chain draft with one to
    decide how long, or the generate of transformers itself: ltd methods lists them, with rules and options.

    Adding methods to a finished run needs another --out: all methods of a run take turns, which makes them comparable.
    """
    from ltd.common.ray_crew import open_crew
    from ltd.evaluation.compare import EvalConfig
    from ltd.evaluation.compare import evaluate as run
    from ltd.evaluation.report import write_report
    from ltd.target.device import uses_gpu

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
        device=device,
        dtype=dtype,
        threads=threads,
        tensor_parallel=launched_processes() > 1,
        against=against,
    )
    if temperature == 0:
        refuse_unused(context, ("seed",), GREEDY)
    with open_crew(ray, ray_cpus, lambda: uses_gpu(device)) as crew:
        results = run(config, crew=crew)
    write_report(results, out, terminal(), against)


def check(
    out: Annotated[Path, typer.Option(help="JSON file for the results; a rerun goes on where the last one was.")],
    data_dir: DataDirOption = None,
    tasks: TasksOption = ALL_TASKS,
    method: Annotated[str, typer.Option(help="What to check; ltd methods lists what there is.")] = "eagle3",
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 128,
    target: TargetOption = None,
    draft: DraftOption = None,
    chain: ChainOption = None,
    device: DeviceOption = "auto",
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
        device=device,
        dtype=dtype,
        threads=threads,
        tensor_parallel=launched_processes() > 1,
    )
    results = run(config)
    terminal().print(verdict_table(results).rich())
    if not is_lossless(results):
        raise typer.Exit(LOSSY)
