"""The command lines of the scripts beside this package."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer

from ltd.common.command import CheckedCommand
from ltd.common.program import run_program
from ltd_rl.scripts.options import PPO_DEFAULTS, Options, parameter
from ltd_rl.traces.observations import Role

T = TypeVar("T")


class ScriptCommand(CheckedCommand):
    """A command whose options, but for those that it needs, are not given where they are empty."""

    takes_empty = True


def make_app(kind: type[T], run: Callable[[T], None], about: str, defaults: Mapping[str, Any]) -> typer.Typer:
    """The command of one script: every field of its options, a dataclass, under its own name.

    Args:
        kind: the options. run: takes them. about: for the help text.
        defaults: what stands for options that are not given, for the help text.
    """

    def command(**values: Any) -> None:
        run(kind(**values))

    hints = get_type_hints(kind)
    parameters = [parameter(entry, hints[entry.name], defaults) for entry in fields(kind)]  # type: ignore[arg-type]
    command.__doc__ = about
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=ScriptCommand, context_settings={"help_option_names": ["-h", "--help"]})(command)
    return app


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--pi_arch 1024 256`, as the official scripts take it, made `--pi_arch 1024,256`."""
    words: list[str] = []
    for word in arguments:
        if word.isdecimal() and len(words) > 1 and words[-2] in ("--pi_arch", "--vf_arch"):
            words[-1] += f",{word}"
        else:
            words.append(word)
    return words


def run_app(app: typer.Typer, name: str, arguments: list[str]) -> int:
    """Runs a script and returns its exit code, see `run_program`."""
    return run_program(lambda: app(arguments, prog_name=name, standalone_mode=False))


def main(role: Role, kind: type[Options], arguments: list[str] | None = None) -> int:
    """Runs the training script of a role, see `run_app`; by default with the arguments of this process."""

    def run(options: Options) -> None:
        from ltd_rl.scripts.run import run_script

        run_script(role, options)

    about = f"Train the {role} policy with PPO, beside a fixed or frozen partner."
    app = make_app(kind, run, about, PPO_DEFAULTS[role])
    return run_app(app, Path(sys.argv[0]).name, joined(sys.argv[1:] if arguments is None else arguments))
