"""Where policies lie that are used without being asked for.

`ltd tune` makes them for one machine, `ltd tune --quick` does so in less time with less care, and some are shipped.

`ltd.policy_choice` chooses among them.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch

from ltd.common.assets import shipped_policies
from ltd.common.files import cache_folder, cached
from ltd.common.machine import unlikeness
from ltd.errors import InputError
from ltd.policies.base import Policy
from ltd.policies.grid import GRID
from ltd.policies.learned.bundle import FACTS, Bundle, load_bundle, remove_bundle
from ltd.policies.learned.setting import Setting
from ltd.policies.rule_file import RULE, load_rule

KeptBy = Literal["tuned", "quick"]
TUNED: Final = "tuned"
QUICK: Final = "quick"
FOR_PEOPLE = ("target", "sampling_sha256")  # a policy of other factors is used with a warning
FREE = (*FOR_PEOPLE, "width")  # the draft takes a policy's beam width
FREE_WHEN_SHIPPED = (*FREE, "hardware", "threads")  # a processor of another kind has similar costs, a GPU has not


def bundle_folder(setting: Setting) -> Path:
    """Where the tuned bundle for a setting lies, in the user's cache; raises InputError if there is no cache."""
    return cache_folder() / bundle_name(setting)


def bundle_name(setting: Setting) -> str:
    """The name of that folder in the cache: another setting has another one."""
    mark = hashlib.sha256(json.dumps(facts_of(setting, FREE), sort_keys=True).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-z0-9]+", "-", f"{setting.hardware} {setting.dtype}".lower()).strip("-")
    return f"policies/{words}-{mark}"


def quick_folder(setting: Setting) -> Path:
    """Where what `ltd tune --quick` keeps for a setting lies; raises InputError if the user has no cache."""
    return bundle_folder(setting) / QUICK


def kept_name(setting: Setting, kept_by: KeptBy) -> str:
    """The name of the folder in the cache with what one of the two kept."""
    return bundle_name(setting) if kept_by == TUNED else f"{bundle_name(setting)}/{QUICK}"


def kept_bundle(setting: Setting, kept_by: KeptBy = "tuned") -> Bundle | None:
    """The bundle that was made here for exactly this setting; None if there is none.

    Warns:
        UserWarning: it is damaged; it counts as missing.
    """
    # Written last, so that without it nothing is there yet.
    facts = cached(f"{kept_name(setting, kept_by)}/{FACTS}")
    return None if facts is None else load_fitting(facts.parent, setting, FREE)


def kept_rule(setting: Setting, kept_by: KeptBy = "tuned") -> tuple[Path, Policy] | None:
    """The rule that was kept for exactly this setting instead of a bundle, and its file; None if there is none.

    Warns:
        UserWarning: it is damaged; it counts as missing.
    """
    file = cached(f"{kept_name(setting, kept_by)}/{RULE}")
    if file is None:
        return None
    try:
        return file, load_rule(file)
    except InputError as error:
        warnings.warn(f"{error}; it is left out, and ltd tune makes a new one", stacklevel=2)
        return None


def remove_kept(folder: Path) -> None:
    """Takes away what was kept in a folder earlier; raises InputError if that cannot be done."""
    remove_bundle(folder)
    try:
        (folder / RULE).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {folder / RULE}: {error.strerror}") from error


def tuned_grid(setting: Setting) -> Path | None:
    """The file with the static tree that `ltd tune` found best for exactly this setting, see `ltd.policies.grid`.

    It is there after every tuning, whether or not a bundle was kept; None if there was none.
    """
    return cached(f"{bundle_name(setting)}/{GRID}")


def shipped_bundle(setting: Setting, device: torch.device) -> Bundle | None:
    """The shipped bundle that fits and was made for the most similar machine.

    Shipped ones are for the CPU, and fit if all but hardware and threads is equal; None if there is none. What a cycle
    costs beside plain decoding depends most on the vector instructions, so those that are nearest count first.

    Warns:
        UserWarning: one is damaged; it counts as missing.
    """
    if device.type != "cpu":
        return None
    folders = [file.parent for file in sorted(shipped_policies().glob(f"*/{FACTS}"))]
    loaded = [load_fitting(folder, setting, FREE_WHEN_SHIPPED) for folder in folders]
    fitting = [bundle for bundle in loaded if bundle is not None]
    return min(fitting, key=partial(_distance, setting), default=None)


def _distance(here: Setting, bundle: Bundle) -> tuple[tuple[int, int], int]:
    """How far a bundle's machine is from this one: in vector instructions, then in the number of differences."""
    made_for = replace(bundle.policy.made_for, width=here.width)
    return unlikeness(made_for.hardware, here.hardware), len(made_for.differences(here))


def load_fitting(folder: Path, here: Setting, free: Sequence[str]) -> Bundle | None:
    """A bundle if it was made for this setting, but for what is free; None, with a warning, if damaged."""
    try:
        bundle = load_bundle(folder)
    except InputError as error:
        warnings.warn(f"{error}; it is left out, and ltd tune makes a new one", stacklevel=2)
        return None
    return bundle if facts_of(bundle.policy.made_for, free) == facts_of(here, free) else None


def facts_of(setting: Setting, without: Sequence[str]) -> dict[str, object]:
    """A setting's attributes, but for some."""
    return {name: value for name, value in asdict(setting).items() if name not in without}
