"""The training scripts' command lines."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import typer

from ltd.errors import InputError
from ltd_rl.scripts.options import Options, parameter
from ltd_rl.traces.observations import Role

INPUT_ERROR = 2  # exit code


def make_app(role: Role, kind: type[Options]) -> typer.Typer:
    """The command of one script: every field of its options, under its own name."""

    def command(**values: Any) -> None:
        from ltd_rl.scripts.run import run_script

        run_script(role, kind(**values))

    hints = get_type_hints(kind)
    parameters = [parameter(role, entry, hints[entry.name]) for entry in fields(kind)]
    command.__doc__ = f"Train the {role} policy with PPO, beside a fixed or frozen partner."
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
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


def main(role: Role, kind: type[Options], arguments: list[str] | None = None) -> int:
    """Runs a script and returns its exit code: 0, or 2 for wrong input, with one sentence."""
    arguments = joined(sys.argv[1:] if arguments is None else arguments)
    try:
        make_app(role, kind)(arguments, prog_name=f"train_{role}.py", standalone_mode=True)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return INPUT_ERROR
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
