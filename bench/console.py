"""Where the benchmarks print."""

from __future__ import annotations

from rich.console import Console

from ltd.common.terminal import terminal


def wide_console() -> Console:
    """The terminal; where the output is not one, a console in which no table is cut."""
    console = terminal()
    return console if console.is_terminal else terminal(width=160)
