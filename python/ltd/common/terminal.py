"""Where commands print."""

from __future__ import annotations

from rich.console import Console


def terminal(width: int | None = None) -> Console:
    """Standard output. Brackets and colons, as in paths and the names of methods, are no markup and no pictures.

    Args:
        width: in characters; None is that of the terminal.
    """
    return Console(width=width, markup=False, emoji=False)
