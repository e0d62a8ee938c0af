"""A command that `torchrun` started as several processes: the first runs it, the others do what it needs of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ltd.common.launch import is_first
from ltd.common.program import INPUT_ERROR, run_program
from ltd.errors import InputError

COMMANDS = ("generate", "eval", "check")  # that decode with a target over several processes


def run_together(command: str, run: Callable[[], int | None]) -> int:
    """The exit code of a command, the same in all processes. The first one alone prints and writes.

    Args:
        command: its name.
        run: runs it in the first process.
    """
    if command not in COMMANDS:
        return run_program(partial(refuse, command)) if is_first() else INPUT_ERROR

    def in_turn() -> int | None:
        from ltd.parallel.joining import join
        from ltd.parallel.leader import Leader

        side = join()
        if not isinstance(side, Leader):
            return side.to_the_end()
        with side.leading():
            code = run_program(run)
        side.end(code)
        return code

    return run_program(in_turn)


def refuse(command: str) -> None:
    """Raises InputError for a command that one process runs."""
    raise InputError(f"ltd {command} runs in one process, but torchrun started several; start it without torchrun")
