"""`ltd inspect`: what a draft head's files say, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import layer_numbers


def inspect(
    head: Annotated[Path, typer.Argument(help="Folder with an EAGLE-3 head.")],
    target: Annotated[
        str | None, typer.Option(help="Folder, GGUF file or hub name of its target, for what the files leave to it.")
    ] = None,
    feature_layers: Annotated[
        str | None, typer.Option(help="As ltd would take them in place of what the files say, with commas between.")
    ] = None,
) -> None:
    """Show a draft head's layout, and every decision that is taken in loading it."""
    import torch

    from ltd.common.files import expand_user
    from ltd.common.table import Table
    from ltd.common.terminal import terminal
    from ltd.drafts.eagle3.files import load_head
    from ltd.drafts.eagle3.published import HeadDecisions
    from ltd.drafts.opening import COMPANIONS, companions
    from ltd.target.model import load_model

    layers = layer_numbers(feature_layers)
    decisions, folder = HeadDecisions(), expand_user(head)
    model = None if target is None else load_model(target, torch.bfloat16, torch.device("cpu")).model
    loaded = load_head(folder, torch.bfloat16, "cpu", target=model, feature_layers=layers, decisions=decisions)
    console = terminal()
    if decisions.made:
        rows = [list(decision) for decision in decisions.made]
        console.print(Table("", ["what", "found", "used"], rows, numbers=False).rich(), highlight=False)
    settings = [[name, str(value)] for name, value in loaded.config.to_dict().items()]
    beside = [file.name for file in companions(folder)]
    settings += [[name, f"there: {use}" if name in beside else "none"] for name, use in COMPANIONS.items()]
    console.print(Table("", ["setting", "value"], settings, numbers=False).rich(), highlight=False)
