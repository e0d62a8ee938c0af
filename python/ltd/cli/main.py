"""What `ltd` runs. The commands are imported inside, so that Ctrl-C meanwhile ends as quietly as later."""

from __future__ import annotations

import os
import sys

from ltd.common.launch import launched_processes
from ltd.common.program import run_program


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code, see `run_program`.

    Args:
        arguments: without the program's name; by default those of this process.
    """
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    def run() -> int | None:
        from ltd.cli.app import app

        code: int | None = app(given, prog_name="ltd", standalone_mode=False)
        return code

    if launched_processes() > 1:
        from ltd.cli.together import run_together

        return run_together(given[0], run)
    return run_program(run)
