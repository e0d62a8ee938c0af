"""`ltd analyze`: how far ways to decide are from the optimum, on traces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ltd.common.terminal import terminal


def analyze(
    traces: Annotated[Path, typer.Option(help="Folder with traces, as ltd record makes them.")],
    latency: Annotated[Path, typer.Option(help="File with this machine's latencies, as ltd calibrate makes it.")],
    out: Annotated[Path, typer.Option(help="Folder for analysis.json, table.md, plot.png and a fitted controller.")],
    policy: Annotated[list[Path] | None, typer.Option(help="Folder of a policy bundle; may be given often.")] = None,
    rule: Annotated[
        list[Path] | None,
        typer.Option(help="File of smart, budget or caddtree by ltd train-baseline rules; may be given often."),
    ] = None,
    controller: Annotated[Path | None, typer.Option(help="File of a fitted controller.")] = None,
    fit: Annotated[Path | None, typer.Option(help="Folder with traces to fit a controller to.")] = None,
    static_from: Annotated[
        Path | None, typer.Option(help="Folder with traces to choose the best fixed decisions on; else these traces.")
    ] = None,
    text: Annotated[
        bool | None,
        typer.Option(
            help="Whether candidates may come from the text as well; if not given, unless all given policies know the "
            "head alone."
        ),
    ] = None,
    knowable: Annotated[
        bool,
        typer.Option("--knowable", help="Also learn, by question, what large predictors of all gains reach; long."),
    ] = False,
) -> None:
    """Compare plain, fixed, controlled and learned decisions with the exact optimum, on traces."""
    from ltd_rl.analysis.analyse import AnalysisConfig, analyse
    from ltd_rl.analysis.report import write_analysis

    policies, rules = tuple(policy or ()), tuple(rule or ())
    config = AnalysisConfig(traces, latency, out, policies, controller, fit, static_from, text, rules, knowable)
    write_analysis(*analyse(config), out, terminal())
    print(f"the analysis is in {out}", file=sys.stderr)
