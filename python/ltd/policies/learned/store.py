"""Where bundles lie that are used without being asked for: `ltd tune` makes them for one machine, and some are shipped.

`ltd.policy_choice` chooses among them.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ltd.common.assets import shipped_policies
from ltd.common.files import cache_folder, cached
from ltd.errors import InputError
from ltd.policies.base import Policy
from ltd.policies.grid import GRID
from ltd.policies.learned.bundle import FACTS, Bundle, load_bundle
from ltd.policies.learned.setting import Setting
from ltd.policies.rule_file import RULE, load_rule

FOR_PEOPLE = ("target",)
FREE_WHEN_SHIPPED = ("target", "hardware", "threads")  # a processor of another kind has similar costs, a GPU has not


def bundle_folder(setting: Setting) -> Path:
    """Where the tuned bundle for a setting lies, in the user's cache; raises InputError if there is no cache."""
    return cache_folder() / bundle_name(setting)


def bundle_name(setting: Setting) -> str:
    """The name of that folder in the cache: another setting has another one."""
    mark = hashlib.sha256(json.dumps(facts_of(setting, FOR_PEOPLE), sort_keys=True).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-z0-9]+", "-", f"{setting.hardware} {setting.dtype}".lower()).strip("-")
    return f"policies/{words}-{mark}"


def tuned_bundle(setting: Setting, device: torch.device) -> Bundle | None:
    """The bundle that `ltd tune` made for exactly this setting, its weights on the device; None if there is none.

    Warns:
        UserWarning: it is damaged; it counts as missing.
    """
    facts = cached(f"{bundle_name(setting)}/{FACTS}")  # written last, so that without it nothing is there yet
    return None if facts is None else load_fitting(facts.parent, setting, device, FOR_PEOPLE)


def tuned_rule(setting: Setting) -> tuple[Path, Policy] | None:
    """The rule that `ltd tune` kept for exactly this setting instead of a bundle, and its file; None if there is none.

    Warns:
        UserWarning: it is damaged; it counts as missing.
    """
    file = cached(f"{bundle_name(setting)}/{RULE}")
    if file is None:
        return None
    try:
        return file, load_rule(file)
    except InputError as error:
        warnings.warn(f"{error}; it is left out, and ltd tune makes a new one", stacklevel=2)
        return None


def tuned_grid(setting: Setting) -> Path | None:
    """The file with the static tree that `ltd tune` found best for exactly this setting, see `ltd.policies.grid`.

    It is there after every tuning, whether or not a bundle was kept; None if there was none.
    """
    return cached(f"{bundle_name(setting)}/{GRID}")


def shipped_bundle(setting: Setting, device: torch.device) -> Bundle | None:
    """The shipped bundle that fits and was made for the most similar machine, its weights on the device.

    Shipped ones are for the CPU, and fit if all but hardware and threads is equal; None if there is none.

    Warns:
        UserWarning: one is damaged; it counts as missing.
    """
    if device.type != "cpu":
        return None
    folders = [file.parent for file in sorted(shipped_policies().glob(f"*/{FACTS}"))]
    loaded = [load_fitting(folder, setting, device, FREE_WHEN_SHIPPED) for folder in folders]
    fitting = [bundle for bundle in loaded if bundle is not None]
    return min(fitting, key=lambda bundle: len(bundle.policy.made_for.differences(setting)), default=None)


def load_fitting(folder: Path, here: Setting, device: torch.device, free: Sequence[str]) -> Bundle | None:
    """A bundle if it was made for this setting, but for what is free; None, with a warning, if damaged."""
    try:
        bundle = load_bundle(folder, device)
    except InputError as error:
        warnings.warn(f"{error}; it is left out, and ltd tune makes a new one", stacklevel=2)
        return None
    return bundle if facts_of(bundle.policy.made_for, free) == facts_of(here, free) else None


def facts_of(setting: Setting, without: Sequence[str]) -> dict[str, object]:
    """A setting's attributes, but for some."""
    return {name: value for name, value in asdict(setting).items() if name not in without}
