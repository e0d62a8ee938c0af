"""What `one_network.py` writes: tokens per second of every way on every machine, and ratios of the one pair to them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from cost_machines import EDGES
from ltd.common.arrays import Doubles

RESAMPLES = 10_000
SEEDED = "one", "wide", "own", "quick"  # ways that were tried with several seeds
Done = dict[str, dict[str, list[float]]]
"""By task, then by held-out machine: seconds of each question."""


def collected(done: Done) -> dict[str, dict[str, Doubles]]:
    """By way and held-out machine: seconds of each question, the mean over the seeds, float64 (questions,).

    `fixed` is the faster of tree and rule, which is in its favour: it is known only afterwards.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for task, by_machine in done.items():
        for name, seconds in by_machine.items():
            found.setdefault(way_of(task), {}).setdefault(name, []).append(seconds)
    means = {way: {name: np.mean(runs, axis=0) for name, runs in each.items()} for way, each in found.items()}
    both = means["tree"].keys() & means.get("rule", {}).keys()
    fixed = {name: min((means[way][name] for way in ("tree", "rule")), key=np.sum) for name in both}
    return {**means, "fixed": fixed}


def way_of(task: str) -> str:
    """The way that a task is of."""
    return task if task == "as it is" else task.partition(" ")[0]


def groups_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Held-out machines by how far they are from those of the training, and all of them."""
    groups = {
        "measured": [name for name in names if name.endswith("measured")],
        "inside": [name for name in names if not name.endswith("measured") and name not in EDGES],
        "beyond": list(EDGES),
    }
    return {**groups, "all": [name for group in groups.values() for name in group]}


def ratio(one: Sequence[Doubles], other: Sequence[Doubles]) -> dict[str, Any]:
    """The throughput of one way over another's, the geometric mean over machines, and its 95 % interval by bootstrap.

    Args:
        one, other: of every machine seconds by question, (questions,) each; all draws are the same for all machines.
    """
    mine, its = np.stack(one), np.stack(other)
    count = mine.shape[1]
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    found = np.log((draws @ its.T) / (draws @ mine.T)).mean(axis=1)
    middle = np.log(its.sum(1) / mine.sum(1)).mean()
    low, high = np.quantile(found, (0.025, 0.975))
    return {"ratio": round(float(np.exp(middle)), 4), "interval": [round(float(np.exp(x)), 4) for x in (low, high)]}


def spread_of_seeds(done: Done, way: str, names: Sequence[str]) -> list[float]:
    """The throughput of each seed that all machines have over the mean of these, the geometric mean over machines."""
    seeds: dict[str, dict[str, float]] = {}
    for task, by_machine in done.items():
        if way_of(task) == way:
            for name, seconds in by_machine.items():
                seeds.setdefault(task.split()[1], {})[name] = sum(seconds)
    whole = [seed for seed in seeds.values() if seed.keys() >= set(names)]
    means = {name: fmean(seed[name] for seed in whole) for name in names if whole}
    return [round(float(np.exp(np.mean([np.log(means[name] / seed[name]) for name in names]))), 4) for seed in whole]


def report(names: Sequence[str], tokens: int, done: Done) -> dict[str, Any]:
    """The results, as values for JSON: tokens per second, and ratios of the one pair to every other way.

    Args:
        names: of the held-out machines. tokens: of all questions.
    """
    seconds = collected(done)
    rates = {
        name: {way: round(tokens / float(each[name].sum()), 2) for way, each in seconds.items() if name in each}
        for name in names
    }
    groups = {**groups_of(names), **{name: [name] for name in names}}
    one_over = {
        group: {
            way: ratio([seconds["one"][name] for name in members], [each[name] for name in members])
            for way, each in seconds.items()
            if way != "one" and each.keys() >= set(members)
        }
        for group, members in groups.items()
    }
    spread = {way: spread_of_seeds(done, way, names) for way in SEEDED}
    return {"tokens_per_second": rates, "one_over": one_over, "seeds": spread}
