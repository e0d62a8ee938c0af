"""Where commands print."""

from __future__ import annotations

from rich.console import Console


def terminal(width: int | None = None) -> Console:
    """Standard output. What stands in brackets, as in paths and labels, is no markup.

    Args:
        width: in characters; None is that of the terminal.
    """
    return Console(width=width, markup=False)
