"""What all reports are made of: tables for the terminal and for Markdown, and images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table as RichTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Words in rows and columns; the first column is left-aligned.

    Attributes:
        title: above the table, if there is one.
        numbers: whether all other columns hold numbers.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    numbers: bool = True

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        rule = ["---", *["---:" if self.numbers else "---"] * (len(self.columns) - 1)]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([*([f"**{self.title}**", ""] if self.title else []), *lines, ""])

    def rich(self) -> RichTable:
        """The table for the terminal."""
        table = RichTable(title=self.title or None, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index and self.numbers else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as the content of a file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getvalue()
