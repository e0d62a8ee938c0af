"""`ltd methods`: what `ltd eval` can compare."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")] = False,
) -> None:
    """List the methods of ltd eval and ltd check: what each decides, how, and its options with their defaults."""
    from ltd.evaluation import method_table

    if markdown:
        print(method_table.markdown(), end="")
        return
    for row in method_table.rows():
        print(f"{row.method}:{row.options}" if row.options else row.method)
        print(f"    decides {row.decides}: {row.rule}")
    print(f"{method_table.PAPER}\n    stands for {','.join(method_table.PAPER_METHODS)}")
