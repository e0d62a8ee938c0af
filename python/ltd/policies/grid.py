"""The result of a grid search: the static depth and size that were fastest on the training questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltd.common.files import expand_user, write_text
from ltd.common.trained_folder import read_facts
from ltd.errors import InputError
from ltd.policies.static import Static

FORMAT, SCHEMA = "ltd-grid", 1
GRID = "grid.json"


def write_grid(policy: Static, facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the result of a search into a folder, `grid.json`, and returns what it holds.

    Args:
        policy: the fastest.
        facts: about the search, as JSON values.
        folder: made if need be.

    Raises:
        InputError: it cannot be written.
    """
    values = {"format": FORMAT, "schema": SCHEMA, "depth": policy.depth, "size": policy.size, **facts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / GRID, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {folder / GRID}: {error.strerror}; name a place that is writable") from error
    return values


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
