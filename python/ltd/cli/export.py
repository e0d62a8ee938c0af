"""`ltd export`: a head for another engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import layer_numbers


def export(
    out: Annotated[Path, typer.Argument(help="Folder for the head; it is made.")],
    to: Annotated[str, typer.Option(help="The layout: vllm, sglang, speculators or ltd, our own.")],
    head: Annotated[
        Path | None, typer.Option(help="Folder with an EAGLE-3 head in any layout; the shipped one if not given.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: bfloat16, float16, float32 or auto.")] = "bfloat16",
    feature_layers: Annotated[
        str | None,
        typer.Option(
            help="Which hidden states of the target it reads, with commas between, where its files do not say."
        ),
    ] = None,
    rope_theta: Annotated[
        float | None, typer.Option(help="The base of its rotary positions, where its files say a wrong one.")
    ] = None,
) -> None:
    """Write a draft head in another layout, such as a serving engine loads, and check that it reads back the same."""
    from ltd.common.assets import shipped_head
    from ltd.common.files import expand_user
    from ltd.drafts.eagle3.export import export_head
    from ltd.drafts.eagle3.files import load_head
    from ltd.drafts.opening import companions
    from ltd.target.device import CPU, resolve_dtype

    folder = shipped_head() if head is None else expand_user(head)
    loaded = load_head(
        folder, resolve_dtype(dtype, CPU), CPU, feature_layers=layer_numbers(feature_layers), rope_theta=rope_theta
    )
    files = companions(folder)
    export_head(loaded, to, expand_user(out), files if to == "ltd" else ())
    if files and to != "ltd":
        names = " and ".join(file.name for file in files)
        print(f"{names} of the head stay behind: other engines have no use for them", file=sys.stderr)
    print(f"the head in {folder}, as {to} loads it, is in {out}", file=sys.stderr)
