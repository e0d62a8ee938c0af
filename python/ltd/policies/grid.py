"""The result of a grid search: the static depth and size that were fastest on the training questions."""

from __future__ import annotations

from pathlib import Path

from ltd.common.files import expand_user
from ltd.common.trained_folder import read_facts
from ltd.errors import InputError
from ltd.policies.static import Static

FORMAT, SCHEMA = "ltd-grid", 1
GRID = "grid.json"


def load_grid(file: str | Path) -> Static:
    """The static policy in a file of `ltd train-baseline grid`.

    Raises:
        InputError: there is no such file, or it holds no such policy.
    """
    file = expand_user(file)
    try:
        values = read_facts(file, FORMAT, SCHEMA, ("depth", "size"))
        for name in ("depth", "size"):
            if type(values[name]) is not int:
                raise InputError(f"{name} is {values[name]!r}, but must be a whole number")
        return Static(values["depth"], values["size"])
    except InputError as error:
        raise InputError(f"the grid search {file} cannot be used: {error}") from error
