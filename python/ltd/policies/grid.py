"""The result of a grid search: the static depth and size that were fastest on the training questions, and the beam
width they were searched with, if that was chosen.

Without a draft the depth is -1, and what is fixed is how many tokens are looked up, and how likely each must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltd.common.files import expand_user
from ltd.common.trained_folder import read_facts, write_facts
from ltd.errors import InputError
from ltd.policies.lookup import Lookup
from ltd.policies.static import Static

FORMAT, SCHEMA = "ltd-grid", 1
GRID = "grid.json"
NO_DRAFT = -1  # the depth without one


def write_grid(policy: Static | Lookup, facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the result of a search into a folder, `grid.json`, and returns what it holds.

    Args:
        policy: the fastest.
        facts: about the search, as JSON values.
        folder: made if need be.

    Raises:
        InputError: it cannot be written.
    """
    numbers: dict[str, Any] = {"depth": NO_DRAFT, "size": policy.size}
    if isinstance(policy, Lookup):
        numbers["least"] = policy.least
    else:
        numbers["depth"] = policy.depth
        if policy.width is not None:
            numbers["width"] = policy.width
    return write_facts(folder / GRID, FORMAT, SCHEMA, {**numbers, **facts})


def load_grid(file: str | Path) -> Static | Lookup:
    """The static policy in a file of `ltd train-baseline grid`, or of `ltd tune`.

    Raises:
        InputError: there is no such file, or it holds no such policy.
    """
    file = expand_user(file)
    try:
        values = read_facts(file, FORMAT, SCHEMA, ("depth", "size"))
        for name in ("depth", "size", *(("width",) if "width" in values else ())):
            if type(values[name]) is not int:
                raise InputError(f"{name} is {values[name]!r}, but must be a whole number")
        if values["depth"] == NO_DRAFT:
            return Lookup(values["size"], _least_chance(values))
        return Static(values["depth"], values["size"], values.get("width"))
    except InputError as error:
        raise InputError(f"the grid search {file} cannot be used: {error}") from error


def _least_chance(values: Mapping[str, Any]) -> float:
    """How likely each token must be; raises InputError if that is no chance."""
    least = values.get("least")
    if not isinstance(least, int | float) or isinstance(least, bool) or not 0 <= least <= 1:
        raise InputError(f"least is {least!r}, but must be a number of 0 … 1")
    return float(least)
