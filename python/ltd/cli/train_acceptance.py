"""`ltd train-acceptance`: the head that decides how long a chain of drafted tokens gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ltd.cli.options import DtypeOption, TargetOption, ThreadsOption
from ltd.common.assets import shipped_chain
from ltd.common.terminal import terminal
from ltd.training.acceptance.config import AcceptanceConfig

DEFAULT = AcceptanceConfig(draft="", run="", out="")


def train_acceptance(
    out: Annotated[Path, typer.Option(help="Folder of the finished head. A rerun goes on.")],
    run: Annotated[Path, typer.Option(help="Folder of an ltd train-draft run, whose conversations it reads.")],
    draft: Annotated[Path | None, typer.Option(help="Folder of the chain draft; the shipped one if not given.")] = None,
    target: TargetOption = None,
    tokens: Annotated[int, typer.Option(help="Answer tokens to read.")] = DEFAULT.tokens,
    mixing: Annotated[
        float, typer.Option(help="Share of an answer's positions that carry the draft's token in one sequence.")
    ] = DEFAULT.mixing,
    weight: Annotated[float, typer.Option(help="Weight of a rejection in the loss.")] = DEFAULT.weight,
    width: Annotated[int | None, typer.Option(help="Of the head's blocks; the draft's hidden size if not given.")] = (
        DEFAULT.width
    ),
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = DEFAULT.epochs,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = DEFAULT.lr,
    batch: Annotated[int, typer.Option(help="Drafted tokens per update.")] = DEFAULT.batch,
    seed: Annotated[int, typer.Option(help="Of the drafted tokens, the first weights and the order.")] = DEFAULT.seed,
    dtype: DtypeOption = DEFAULT.dtype,
    threads: ThreadsOption = DEFAULT.threads,
) -> None:
    """Train SpecDec++'s acceptance head for a chain draft: will the target accept a drafted token?"""
    values = {**locals(), "draft": draft or str(shipped_chain())}
    config = AcceptanceConfig(**values)
    from ltd.common.table import Table
    from ltd.training.acceptance.train import train_acceptance as train

    found = train(config)
    rows = [[f"{bin['predicted']:.3f}", f"{bin['label']:.3f}", str(bin["tokens"])] for bin in found["calibration"]]
    title = f"Held-out: loss {found['loss']:.3f}, AUC {found['auc']:.3f}, accepted {found['accepted']:.3f}"
    terminal().print(Table(title, ["predicted", "accepted", "tokens"], rows).rich())
