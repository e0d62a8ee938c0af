"""`ltd calibrate`: what the parts of a cycle cost on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import DeviceOption, DraftOption, DtypeOption, TargetOption, ThreadsOption, WidthOption
from ltd.common.terminal import terminal
from ltd.errors import InputError


def calibrate(
    out: Annotated[Path, typer.Option(help="JSON file for the latencies; a plot comes beside it.")],
    seconds: Annotated[
        float, typer.Option(help="About how long to measure, each point once at least; noise shrinks with time.")
    ] = 60.0,
    width: WidthOption = None,
    target: TargetOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Measure what drafting, verification and plain decoding cost here: a table, a JSON file and a plot."""
    check_out(out)
    if draft == "none":
        raise InputError(
            "calibration measures drafting beside decoding, so it needs a draft; name one, or the draft lookup"
        )
    from ltd.common.files import write_bytes
    from ltd.latency.calibration import calibrate as run
    from ltd.latency.cycle_bench import Plan
    from ltd.latency.report import describe, latency_table, plot
    from ltd.latency.thread_count import time_thread_counts
    from ltd.loading import load

    plan = Plan(seconds=seconds, width=width)  # raises if it is out of range, before a model is loaded
    decoder = load(target, draft, device=device, dtype=dtype, threads=threads)
    counts = time_thread_counts(decoder.target) if decoder.target.device.type == "cpu" else None
    model = run(decoder, plan, target=target)
    picture = out.with_suffix(".png")
    model.save(out)
    write_bytes(picture, plot(model))
    console = terminal()
    console.print(latency_table(model).rich())
    console.print(describe(model), highlight=False)
    if counts is not None:
        console.print(str(counts), highlight=False)
    console.print(f"The latencies are in {out}, the plot is in {picture}.", highlight=False, soft_wrap=True)
    if warning := model.warning():
        print(f"warning: {warning}", file=sys.stderr)


def check_out(out: Path) -> None:
    """Raises InputError if the file, or the plot beside it, could not be written at the end."""
    if out.suffix != ".json":
        raise InputError(f"the latencies are written as JSON, so {out} must end in .json")
    for file in (out, out.with_suffix(".png")):
        if file.is_dir():
            raise InputError(f"{file} is a folder; name a file in one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; name a place that is writable") from error
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"cannot write {out}: no permission; name a place that is writable")
