"""Files of measured costs, see `ltd.policies.cycle_costs`, and the costs that come with this package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from ltd.common.assets import shipped_policies
from ltd.common.files import expand_user, write_text
from ltd.common.json_files import NOTHING_ELSE, Real, read_json
from ltd.common.machine import processor_name, unlikeness
from ltd.errors import InputError
from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.learned.bundle import FACTS, Bundle, load_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.tree import MAX_DEPTH, check_tree_limits

FORMAT, SCHEMA = "ltd-costs", 1
COSTS = "costs.json"
SHIPPED = "shipped"
MOST_VERIFIED = 240  # candidates with known costs: the paper's largest tree


def save_costs(costs: CycleCosts, file: Path) -> None:
    """Writes JSON.

    Raises:
        OSError: it cannot be written.
    """
    tables = {name: getattr(costs, name).tolist() for name in ("lengths", "drafting", "verifying")}
    values = {"format": FORMAT, "schema": SCHEMA, "made_for": asdict(costs.made_for), **tables}
    write_text(file, json.dumps(values) + "\n")


@dataclass(frozen=True, slots=True)
class CostsFile:
    """Costs as they are stored; tables are lists of rows."""

    __pydantic_config__: ClassVar[ConfigDict] = NOTHING_ELSE

    format: str
    schema: int
    made_for: Setting
    lengths: list[Real]
    drafting: list[list[Real]]
    verifying: list[list[Real]]


def load_costs(file: str | Path) -> CycleCosts:
    """Reads what `save_costs` wrote.

    Raises:
        InputError: there is no such file, or it holds no whole costs; the message names it and says why.
    """
    try:
        parts = read_json(expand_user(file), CostsFile)
        if (parts.format, parts.schema) != (FORMAT, SCHEMA):
            raise ValueError(f"it is not of format {FORMAT!r}, schema {SCHEMA}")
        check_tree_limits(parts.made_for.width, 0, 0)
        names = ("lengths", "drafting", "verifying")
        tables = {name: np.array(getattr(parts, name), dtype=np.float64) for name in names}
        return CycleCosts(parts.made_for, **tables)
    except ValueError as error:
        raise InputError(
            f"the costs {file} cannot be used: {error}; ltd train-baseline rules writes such a file"
        ) from error


def find_costs(name: str) -> CycleCosts:
    """The costs in a file, or, for "shipped", those that the shipped policies for the most
    similar processor were tuned with, in plain tokens.

    Raises:
        InputError: there are none.
    """
    return load_costs(name) if name != SHIPPED else costs_of_policy(nearest_shipped().policy)


def costs_file(name: str) -> Path:
    """The file that says what `find_costs` finds; raises InputError if none are shipped."""
    if name != SHIPPED:
        return expand_user(name)
    folder = nearest_shipped().folder
    assert folder is not None
    return folder / FACTS


def nearest_shipped() -> Bundle:
    """The shipped policies for the most similar processor; raises InputError if none are shipped."""
    files = sorted(shipped_policies().glob(f"*/{FACTS}"))
    if not files:
        raise InputError(
            f"no costs come with ltd; measure some with ltd train-baseline rules, and name the file: costs={COSTS}"
        )
    here = processor_name()
    return min(
        (load_bundle(file.parent) for file in files),
        key=lambda bundle: unlikeness(bundle.policy.made_for.hardware, here),
    )


def costs_of_policy(policy: Learned) -> CycleCosts:
    """What learned policies know of costs; between the sizes of their ladder, and beyond it, in lines."""
    if policy.costs is None:
        raise InputError("these policies know no costs; measure some with ltd train-baseline rules")
    known, verify = np.array(policy.sizes, dtype=np.float64), np.array(policy.costs.verify)
    sizes = np.arange(MOST_VERIFIED + 1.0)
    verifying = np.interp(sizes, known, verify)
    if len(known) > 1:
        verifying += np.maximum(sizes - known[-1], 0.0) * (verify[-1] - verify[-2]) / (known[-1] - known[-2])
    drafting = policy.costs.begin + np.arange(MAX_DEPTH + 1.0) * policy.costs.expand
    grown = np.maximum.accumulate(verifying)
    return CycleCosts(policy.made_for, np.zeros(1), drafting[:, None], grown[:, None])
