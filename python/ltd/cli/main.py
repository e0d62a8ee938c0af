"""Puts the commands together, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer

from ltd.cli.analyze import analyze
from ltd.cli.calibrate import calibrate
from ltd.cli.demo import demo
from ltd.cli.evaluate import check, evaluate
from ltd.cli.generate import generate
from ltd.cli.import_policy import import_policy
from ltd.cli.info import info
from ltd.cli.methods import methods
from ltd.cli.record import record
from ltd.cli.train_acceptance import train_acceptance
from ltd.cli.train_baseline import train_baseline
from ltd.cli.train_draft import train_draft
from ltd.cli.tune import tune
from ltd.errors import InputError

INPUT_ERROR, INTERRUPTED = 2, 130  # exit codes
ABOUT = "Learning to Draft: a language model generates the same text, faster."

app = typer.Typer(
    help=ABOUT,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)
app.command()(demo)
app.command()(info)
app.command("eval")(evaluate)
app.command()(check)
app.command()(methods)
app.command()(calibrate)
app.command("train-draft")(train_draft)
app.command("train-acceptance")(train_acceptance)
app.command()(record)
app.command()(tune)
app.command("train-baseline")(train_baseline)
app.command()(analyze)
app.command("import-policy")(import_policy)


def show_version(wanted: bool) -> None:
    """Prints the version and ends the program."""
    if wanted:
        from importlib.metadata import version

        print(f"ltd {version('ltd')}")
        raise typer.Exit


@app.callback(help=ABOUT)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, a command's own, 2 for wrong input, 130 for Ctrl-C.

    Args:
        arguments: without the program's name; by default those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return app(arguments or ["--help"], prog_name="ltd", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        sentence = sentence_for(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return INPUT_ERROR


def show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """Shows a warning to a user, whom its place in the code does not help."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def sentence_for(error: Exception) -> str | None:
    """What to tell the user about a mistake of theirs; None for an error of ours."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
        return f"{error.format_message().rstrip('.')}; see ltd --help"
    return None
