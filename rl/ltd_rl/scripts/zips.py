"""Policies in zips of `PPO.save`: of a training here, which say themselves what they are, or of an official script."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.policies.learned.bundle import BEFORE_TEXT
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.sb3_import import CONSTANT_DEPTH, CONSTANT_SIZE, import_policies, read_network, read_saved
from ltd.policies.learned.setting import Setting
from ltd_rl.traces.observations import Role
from ltd_rl.trainers.ppo import RUN

KINDS: dict[Any, type[Layout | Summary]] = {kind.__name__: kind for kind in (Layout, Summary)}


def read_zip(role: Role, file: Path) -> Learned:
    """The policy of a role in a zip; the other decision is constant.

    Raises:
        InputError: not such a zip, another role, or one of a training here that does not say what it decides among.
    """
    trained = read_saved(file).trained
    if trained is None:
        if (file.parent / RUN).exists():
            raise unknown(file)
        return import_policies(*((file, None) if role == "depth" else (None, file))).policy
    if trained.get("role") != role:
        raise InputError(f"{file} is of a {trained.get('role')} policy; name one of a {role} policy")
    network = read_network(file, layout_in(trained.get("observation"), file))
    width, depth, sizes = (trained.get(name) for name in ("width", "depth", "sizes"))
    if not isinstance(width, int) or not isinstance(depth, int) or not isinstance(sizes, list):
        raise unknown(file)
    if role == "depth":
        return Learned(Setting(width), depth, (CONSTANT_SIZE,), depth_network=network)
    return Learned(Setting(width), min(depth, CONSTANT_DEPTH), tuple(sizes), size_network=network)


def layout_in(observation: Any, file: Path) -> Layout | Summary:
    """The layout that a zip of a training here says; raises InputError if it does not."""
    kind = KINDS.get(observation.get("kind")) if isinstance(observation, dict) else None
    if kind is None:
        raise unknown(file)
    known = BEFORE_TEXT | observation
    values = {entry.name: known.get(entry.name) for entry in fields(kind)}
    numbers = values.pop("length_range")
    whole = [*values.values(), *(numbers if isinstance(numbers, list) and len(numbers) == 2 else [None])]
    if not all(type(value) is int for value in whole):
        raise unknown(file)
    return kind(**values, length_range=(whole[-2], whole[-1]))


def unknown(file: Path) -> InputError:
    """What is said where a zip is known to be of a training here, but says too little."""
    return InputError(f"{file} is of a training here, whose zip does not say which sizes it knows; name its bundle")
