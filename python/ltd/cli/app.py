"""Puts the commands together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from ltd.cli.analyze import analyze
from ltd.cli.calibrate import calibrate
from ltd.cli.demo import demo
from ltd.cli.evaluate import check, evaluate
from ltd.cli.export import export
from ltd.cli.fit_sampling import fit_sampling
from ltd.cli.generate import generate
from ltd.cli.import_policy import import_policy
from ltd.cli.info import info
from ltd.cli.inspect import inspect
from ltd.cli.methods import methods
from ltd.cli.record import record
from ltd.cli.train_acceptance import train_acceptance
from ltd.cli.train_baseline import train_baseline
from ltd.cli.train_draft import train_draft
from ltd.cli.tune import tune
from ltd.cli.write_questions import write_questions
from ltd.common.command import CheckedCommand
from ltd.common.version import VERSION

ABOUT = "Learning to Draft: a language model generates the same text, faster."

app = typer.Typer(
    help=ABOUT,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "demo": demo,
    "info": info,
    "eval": evaluate,
    "check": check,
    "methods": methods,
    "calibrate": calibrate,
    "train-draft": train_draft,
    "train-acceptance": train_acceptance,
    "fit-sampling": fit_sampling,
    "write-questions": write_questions,
    "record": record,
    "tune": tune,
    "train-baseline": train_baseline,
    "analyze": analyze,
    "import-policy": import_policy,
    "inspect": inspect,
    "export": export,
}
for name, command in COMMANDS.items():
    app.command(name, cls=CheckedCommand)(command)


def show_version(wanted: bool) -> None:
    """Prints the version and ends the program."""
    if wanted:
        print(f"ltd {VERSION}")
        raise typer.Exit


@app.callback(help=ABOUT)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
