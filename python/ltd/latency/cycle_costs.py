"""From a machine's latencies to the costs that rules and the controller weigh."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ltd.common.arrays import Doubles
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.policies.cycle_costs import CycleCosts
from ltd.policies.cycle_costs_file import MOST_VERIFIED
from ltd.policies.learned.setting import Setting
from ltd.tree import MAX_DEPTH

TYPICAL_GAIN = 2  # whose reading is in the costs; it hardly matters how many
FAR = 16  # times the longest measured context, up to which costs go on linearly


def length_knots(latency: LatencyModel, parts: Iterable[str]) -> Doubles:
    """float64 (T,): context lengths between which the costs of some parts are linear, and one far beyond."""
    knots = np.unique(np.concatenate([latency.parts[name].lengths for name in parts]))
    return np.append(knots, FAR * knots[-1])


def cycle_costs(latency: LatencyModel) -> CycleCosts:
    """The costs of every depth, and of up to 240 candidates, without looking anything up.

    Raises:
        InputError: the latencies are without a draft.
    """
    width = latency.setup.get("width")
    if not latency.drafts or width is None:
        raise InputError("these latencies were measured without a draft head; calibrate with one")
    knots = length_knots(latency, ("begin", "expand", "verify", "other"))
    depths, sizes = np.arange(MAX_DEPTH + 1)[:, None], np.arange(MOST_VERIFIED + 1)[:, None]
    drafting = latency.draft(depths, knots, TYPICAL_GAIN)
    verifying = latency.verify(sizes, knots) + latency.other(sizes, knots)
    # Interpolating rounds, which must not make more cheaper.
    tables = (np.maximum.accumulate(table, axis=0) for table in (drafting, verifying))
    return CycleCosts(measured_on(latency.setup, width), knots, *tables)


def measured_on(setup: dict[str, Any], width: int) -> Setting:
    """What latencies with this setup were measured on, for trees of a width; the target's sizes are not among it."""
    on_cpu = setup.get("device") == "cpu"
    return Setting(
        width,
        target=setup.get("target"),
        head_sha256=setup.get("draft_sha256"),
        hardware=setup.get("processor" if on_cpu else "gpu"),
        dtype=setup.get("dtype"),
        threads=setup.get("threads") if on_cpu else None,
    )
