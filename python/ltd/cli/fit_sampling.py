"""`ltd fit-sampling`: how far a draft head can be trusted where text is sampled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import (
    DataDirOption,
    DeviceOption,
    DtypeOption,
    LimitOption,
    MaxNewTokensOption,
    TargetOption,
    TasksOption,
    ThreadsOption,
    names,
    numbers,
)
from ltd.common.terminal import terminal


def fit_sampling(
    out: Annotated[Path, typer.Option(help="Work folder; a rerun goes on where the last one was.")],
    tasks: TasksOption,
    data_dir: DataDirOption = None,
    draft: Annotated[
        str | None, typer.Option(help="Folder of the head, which is written into; the shipped one if not given.")
    ] = None,
    temperature: Annotated[
        str, typer.Option(help="Above 0; of several, commas between, questions take turns.")
    ] = "0.6,1",
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 128,
    depth: Annotated[int, typer.Option(help="Depth of the trees, 0 to 12.")] = 8,
    seed: Annotated[int, typer.Option(help="Every question gets a seed of its own from this one.")] = 0,
    target: TargetOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Fit what a head's scores mean where text is sampled, to the target's own answers; kept in the head's folder."""
    from ltd.common.table import Table
    from ltd_rl.traces.fit_sampling import SamplingFitConfig
    from ltd_rl.traces.fit_sampling import fit_sampling as run
    from ltd_rl.traces.samplings import name_of

    config = SamplingFitConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        limit=limit,
        max_new_tokens=max_new_tokens,
        target=target,
        draft=draft,
        device=device,
        dtype=dtype,
        threads=threads,
        temperatures=numbers(temperature, "--temperature"),
        depth=depth,
        seed=seed,
    )
    fits = run(config).fits
    deepest = max(len(fit.levels) for fit in fits)
    rows = [[name_of(fit.temperature), *(f"{factor:.2f}" for factor in fit.levels)] for fit in fits]
    rows = [[*row, *[""] * (deepest + 1 - len(row))] for row in rows]
    columns = ["temperature", *(f"level {level}" for level in range(deepest))]
    terminal().print(Table("Factors; deeper levels have the last", columns, rows).rich())
    print(f"they are in {config.head} now", file=sys.stderr)
