"""Policies that are used without being asked for: `ltd tune` makes them for one machine, and some are shipped."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ltd.common.assets import shipped_policies
from ltd.common.files import cache_folder
from ltd.errors import InputError
from ltd.policies.learned.bundle import FACTS, load_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting

FOR_PEOPLE = ("target",)
FREE_WHEN_SHIPPED = ("target", "hardware", "threads")  # a processor of another kind has similar costs, a GPU has not


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy that fits, and where it comes from.

    Attributes:
        policy: ready to use.
        folder: its bundle.
        tuned: made by `ltd tune` for exactly this setting; else it is shipped and may be made for another processor.
    """

    policy: Learned
    folder: Path
    tuned: bool


def bundle_folder(setting: Setting) -> Path:
    """Where the tuned bundle for a setting lies, in the user's cache: another setting has another folder."""
    mark = hashlib.sha256(json.dumps(facts_of(setting, FOR_PEOPLE), sort_keys=True).encode()).hexdigest()[:12]
    words = re.sub(r"[^a-z0-9]+", "-", f"{setting.hardware} {setting.dtype}".lower()).strip("-")
    return cache_folder() / "policies" / f"{words}-{mark}"


def find_bundle(setting: Setting, device: torch.device) -> StoredPolicy | None:
    """The tuned policy for a setting, or else a shipped one that fits well enough, its weights on the device.

    Shipped ones are for the CPU, and fit if all but hardware and threads is equal. For a head whose hash is unknown
    there is none.

    Warns:
        UserWarning: a bundle is damaged; it counts as missing.
    """
    if setting.head_sha256 is None:
        return None
    folder = bundle_folder(setting)
    if (folder / FACTS).is_file():  # written last, so that without it nothing is there yet
        policy = load_fitting(folder, setting, device, FOR_PEOPLE)
        if policy is not None:
            return StoredPolicy(policy, folder, tuned=True)
    return find_shipped(setting, device) if device.type == "cpu" else None


def find_shipped(setting: Setting, device: torch.device) -> StoredPolicy | None:
    """The shipped policy that fits and was made for the most similar machine."""
    folders = [file.parent for file in sorted(shipped_policies().glob(f"*/{FACTS}"))]
    loaded = [(load_fitting(folder, setting, device, FREE_WHEN_SHIPPED), folder) for folder in folders]
    fitting = [StoredPolicy(policy, folder, tuned=False) for policy, folder in loaded if policy is not None]
    return min(fitting, key=lambda stored: len(stored.policy.made_for.differences(setting)), default=None)


def load_fitting(folder: Path, here: Setting, device: torch.device, free: Sequence[str]) -> Learned | None:
    """A bundle's policy if it was made for this setting, but for what is free; None, with a warning, if damaged."""
    try:
        policy = load_bundle(folder, device).policy
    except InputError as error:
        warnings.warn(f"{error}; it is left out, and ltd tune makes a new one", stacklevel=2)
        return None
    return policy if facts_of(policy.made_for, free) == facts_of(here, free) else None


def facts_of(setting: Setting, without: Sequence[str]) -> dict[str, object]:
    """A setting's attributes, but for some."""
    return {name: value for name, value in asdict(setting).items() if name not in without}
