"""`ltd record`: traces to train policies on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import (
    GREEDY,
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
    TemperaturesOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    WidthOption,
    names,
    numbers,
    refuse_unused,
)


def record(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the traces; a rerun goes on where the last one was.")],
    tasks: TasksOption,
    data_dir: DataDirOption = None,
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 128,
    temperature: TemperaturesOption = "0",
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    seed: Annotated[int, typer.Option(help="Every question gets a seed of its own from this one.")] = 0,
    width: WidthOption = None,
    depth: Annotated[int, typer.Option(help="Depth of the recorded trees, 0 to 12; the draft lookup has none.")] = 12,
    rows: Annotated[int, typer.Option(help="Positions drafted at the same time.")] = 32,
    gigabytes: Annotated[float, typer.Option(help="Most disk space for the traces.")] = 4.0,
    target: TargetOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    ray: RayOption = None,
    ray_cpus: RayCpusOption = None,
) -> None:
    """Record answers with the full draft tree at every position, if there is a head, to train policies on."""
    from ltd.common.ray_crew import open_crew
    from ltd.drafts.base import DEFAULT_WIDTH
    from ltd.target.device import uses_gpu
    from ltd_rl.traces.record import RecordConfig
    from ltd_rl.traces.record import record as run

    temperatures = numbers(temperature, "--temperature")
    if not any(temperatures):
        refuse_unused(context, ("top_p", "top_k", "seed"), GREEDY)
    config = RecordConfig(
        data_dir=data_dir,
        out=out,
        tasks=names(tasks),
        limit=limit,
        max_new_tokens=max_new_tokens,
        width=DEFAULT_WIDTH if width is None else width,
        depth=depth,
        rows=rows,
        gigabytes=gigabytes,
        temperatures=temperatures,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        target=target,
        draft=draft,
        device=device,
        dtype=dtype,
        threads=threads,
    )
    with open_crew(ray, ray_cpus, lambda: uses_gpu(device)) as crew:
        run(config, crew=crew)
    print(f"the traces are in {out}", file=sys.stderr)
