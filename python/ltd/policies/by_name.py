"""Policies by name, as users type them: `ddd`, or `ddd:floor=-0.5:size=6` with options."""

from __future__ import annotations

from collections.abc import Callable

from ltd.common.named_options import describe, make_named
from ltd.policies.base import Policy
from ltd.policies.baselines.c2t import c2t
from ltd.policies.baselines.disco import disco
from ltd.policies.baselines.specdecpp import tree_specdecpp
from ltd.policies.ddd import DDD
from ltd.policies.gammatune import GammaTune
from ltd.policies.static import Static
from ltd.policies.svip import SVIP

NAMED: dict[str, Callable[..., Policy]] = {
    "eagle3": Static,
    "ddd": DDD,
    "svip": SVIP,
    "gammatune": GammaTune,
    "disco": disco,
    "specdecpp": tree_specdecpp,
    "c2t": c2t,
}


def parse_policy(text: str) -> Policy:
    """The policy that a name stands for; see `ltd.common.named_options.make_named`."""
    return make_named(text, NAMED, "policy")


def describe_policies() -> list[str]:
    """One line per policy, for help texts: its name, and its options with their defaults."""
    return describe(NAMED)
