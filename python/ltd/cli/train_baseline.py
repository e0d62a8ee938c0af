"""`ltd train-baseline`: the methods that learned policies are compared with."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltd.cli.options import (
    DeviceOption,
    DraftOption,
    DtypeOption,
    LimitOption,
    TargetOption,
    ThreadsOption,
    TrainingDataOption,
    TrainingTasksOption,
    names,
    refuse_unused,
)
from ltd.common.terminal import terminal

if TYPE_CHECKING:
    from ltd.common.table import Table
    from ltd_rl.baselines.rule_search import FoundRules
    from ltd_rl.baselines.train import TrainedBaseline
    from ltd_rl.traces.sources import Source

GRID, RULES = "grid", "rules"


class BaselineKind(str, Enum):
    """What can be made."""

    DISCO = "disco"
    SPECDECPP = "specdecpp"
    C2T = "c2t"
    GRID = GRID
    RULES = RULES


NETWORKS = (BaselineKind.DISCO, BaselineKind.SPECDECPP, BaselineKind.C2T)
SEARCHES = (BaselineKind.GRID, BaselineKind.RULES)
# The options that only some kinds know, and these kinds.
KNOWN_TO = {
    "samples": NETWORKS,
    "epochs": NETWORKS,
    "seed": NETWORKS,
    "width": (BaselineKind.SPECDECPP,),
    "traces": SEARCHES,
    "latency": SEARCHES,
    "seconds": SEARCHES,
    "networks": (BaselineKind.RULES,),
}


def train_baseline(
    context: typer.Context,
    kind: Annotated[
        BaselineKind,
        typer.Argument(help="disco, specdecpp, c2t; grid: the best static tree; rules: every rule's free numbers."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the result, and of its work; a rerun goes on.")],
    data_dir: TrainingDataOption = None,
    tasks: TrainingTasksOption = "humaneval",
    limit: LimitOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a training answer.")] = 128,
    samples: Annotated[
        Path | None, typer.Option(help="Samples of another run, its OUT/work/samples, instead of recording.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Width of specdecpp's head.")] = 1024,
    epochs: Annotated[int | None, typer.Option(min=1, help="The paper's 50, or 5 for specdecpp, if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, first weights and order.")] = 0,
    traces: Annotated[
        Path | None, typer.Option(help="For grid and rules: folder of ltd record, instead of recording.")
    ] = None,
    latency: Annotated[
        Path | None, typer.Option(help="For grid and rules: file of ltd calibrate, instead of measuring.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="For grid and rules: about how long to measure costs.")] = 60.0,
    networks: Annotated[
        Path | None, typer.Option(help="For rules: folder with disco/, specdecpp/, c2t/ instead of the shipped ones.")
    ] = None,
    target: TargetOption = None,
    draft: DraftOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Train a baseline of the comparison (disco, specdecpp, c2t), or search the best static tree (grid) or rules."""
    refuse_ineffective(context, kind, samples=samples, traces=traces, latency=latency)
    shared: dict[str, Any] = {
        "data_dir": data_dir,
        "tasks": names(tasks),
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "target": target,
        "draft": draft,
        "device": device,
        "dtype": dtype,
        "threads": threads,
    }
    if kind in SEARCHES:
        source = search_source(out, traces, latency, seconds, shared)
        if kind is BaselineKind.GRID:
            search_static(source, out)
        else:
            search_all_rules(source, out, networks)
        return
    from ltd_rl.baselines.train import BaselineConfig
    from ltd_rl.baselines.train import train_baseline as run

    trained = run(BaselineConfig(kind.value, out, samples=samples, width=width, epochs=epochs, seed=seed, **shared))
    terminal().print(course(trained).rich())
    print(f"the baseline is in {out}; ltd eval knows it as {kind.value}:model={out}", file=sys.stderr)


def refuse_ineffective(
    context: typer.Context, kind: BaselineKind, *, samples: Path | None, traces: Path | None, latency: Path | None
) -> None:
    """Raises InputError for a given option that another kind knows, or that what else is given makes useless."""
    refuse_unused(context, (name for name, kinds in KNOWN_TO.items() if kind not in kinds), kind.value)
    if samples is not None:
        unused = ("data_dir", "tasks", "limit", "max_new_tokens", "device", "dtype", "threads")
        refuse_unused(context, unused, "training on --samples")
    if traces is not None:
        refuse_unused(context, ("data_dir", "tasks", "limit", "max_new_tokens"), "a search with --traces")
    if latency is not None:
        refuse_unused(context, ("seconds",), "a search with --latency")
    if kind is BaselineKind.GRID and traces is not None and latency is not None:
        model = ("target", "draft", "device", "dtype", "threads")
        refuse_unused(context, model, "grid with --traces and --latency loads no model and")


def search_source(
    out: Path, traces: Path | None, latency: Path | None, seconds: float, shared: dict[str, Any]
) -> Source:
    """Where a search's traces and latencies come from."""
    from ltd_rl.baselines.train import WORK, questions_folder
    from ltd_rl.traces.sources import Source

    source = Source(folder=out / WORK, traces=traces, latency=latency, seconds=seconds, **shared)  # checks the numbers
    if traces is None:
        source = replace(source, data_dir=questions_folder(source, out / WORK))
    return source


def search_all_rules(source: Source, out: Path, networks: Path | None) -> None:
    """The free numbers of every rule."""
    from ltd_rl.baselines.rule_search import search_rules

    found = search_rules(source, out, networks)
    terminal().print(searched(found).rich())
    print("\n".join(found.policies.values()))
    for name, reason in found.left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    print("rules for chains are not searched: traces are of trees", file=sys.stderr)
    print(f"the rules are in {out}; ltd eval knows them as rule:{out}/ddd.json and so on", file=sys.stderr)


def searched(found: FoundRules) -> Table:
    """The best setting of every rule."""
    from ltd.common.table import Table

    rows = [
        [
            name,
            str(rule.tried),
            *(
                f"{spent.throughput / plain:.2f}x"
                for spent, plain in zip((rule.training, rule.held_out), found.plain, strict=True)
            ),
            f"{rule.held_out.acceptance_length:.2f}",
        ]
        for name, rule in found.rules.items()
    ]
    return Table("Replayed, deciding not counted", ["rule", "tried", "training", "held out", "held-out τ"], rows)


def search_static(source: Source, out: Path) -> None:
    """The grid search."""
    from ltd_rl.baselines.grid import search_grid

    found = search_grid(source, out)
    terminal().print(fastest(found).rich())
    print(f"depth {found['depth']}, size {found['size']}; ltd eval knows it as grid:{out}/grid.json", file=sys.stderr)


def course(trained: TrainedBaseline) -> Table:
    """How the training went on held-out questions: the first, the kept and the last epoch."""
    from ltd.common.table import Table

    shown = {0: "first", len(trained.scores) - 1: "last", trained.best: "kept"}
    rows = [
        [f"{epoch + 1} ({shown[epoch]})", *(f"{value:.4f}" for value in (score.loss, score.accuracy, score.auc))]
        for epoch in sorted(shown)
        for score in [trained.scores[epoch]]
    ]
    title = f"Held-out questions: {trained.held_out} samples ({trained.training} to train on)"
    return Table(title, ["epoch", "loss", "accuracy", "AUC"], rows)


def fastest(found: dict[str, Any]) -> Table:
    """The best size of every depth."""
    from ltd.common.table import Table

    rows = []
    for depth, rates in enumerate(found["tokens_per_second"]):
        best = max(rates)
        speedup = best / found["plain_tokens_per_second"]
        rows.append([str(depth), str(found["sizes"][rates.index(best)]), f"{best:.1f}", f"{speedup:.2f}x"])
    return Table("Training questions, replayed", ["depth", "best size", "tokens/s", "speedup"], rows)
