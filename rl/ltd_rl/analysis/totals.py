"""What ways to decide come to: their cycles are replayed and their costs added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ltd.common.arrays import Integers
from ltd.latency.model import LatencyModel
from ltd_rl.analysis.ways import TaskGround, Way
from ltd_rl.traces.format import RecordedGeneration, Traces
from ltd_rl.traces.outcomes import catching_up
from ltd_rl.traces.replay import Cycles

PARTS = ("begin", "expand", "lookup", "verify", "rest", "plain")


@dataclass(frozen=True, slots=True)
class ReplayedTotal:
    """What one way to decide came to on one task. A cycle that neither drafts nor verifies anything is plain.

    Attributes:
        tokens, cycles: how many.
        seconds: by part of the cycle, `PARTS`.
        depths, sizes: how many cycles had each, without the plain ones; depth -1 is of the text's candidates alone.
    """

    tokens: int
    cycles: int
    seconds: dict[str, float]
    depths: dict[int, int]
    sizes: dict[int, int]

    @property
    def throughput(self) -> float:
        """Tokens per second."""
        return self.tokens / sum(self.seconds.values())

    @property
    def acceptance_length(self) -> float:
        """τ."""
        return self.tokens / self.cycles

    @property
    def mean_depth(self) -> float:
        """Over all cycles, those without a draft as 0."""
        return sum(max(depth, 0) * count for depth, count in self.depths.items()) / self.cycles

    @property
    def mean_size(self) -> float:
        """Over all cycles, plain ones as 0."""
        return sum(size * count for size, count in self.sizes.items()) / self.cycles


Analysis = dict[str, dict[str, ReplayedTotal]]
"""By task, then by the name of the way to decide, all in the same order."""


def rates_of(results: Analysis) -> list[dict[str, float]]:
    """Tokens per second of every way, task by task."""
    return [{name: found.throughput for name, found in spent.items()} for spent in results.values()]


def compare(traces: Traces, latency: LatencyModel, ways: dict[str, Way]) -> Analysis:
    """Every way on every task."""
    by_task: dict[str, list[RecordedGeneration]] = {}
    for generation in traces.generations:
        if generation.positions:
            by_task.setdefault(generation.task, []).append(generation)
    results: Analysis = {}
    with tqdm(total=len(by_task) * len(ways), unit="method") as progress:
        for task, generations in by_task.items():
            results[task], grounds = {}, dict[Any, TaskGround]()
            for name, way in ways.items():
                progress.set_description(f"{task}, {name}")
                view = way.text, way.most
                ground = grounds.setdefault(view, TaskGround(generations, latency, *view))
                results[task][name] = spend(ground, ground.cycles(*way.decide(ground)))
                progress.update()
    return results


def spend(ground: TaskGround, cycles: Iterable[Cycles]) -> ReplayedTotal:
    """Adds up the cycles of all generations, each from its first position on."""
    latency, looks_up = ground.latency, ground.text is not None
    rows = [
        (generation.prompt_length + found.positions, found.depths, found.sizes, found.gains)
        for generation, found in zip(ground.generations, cycles, strict=True)
    ]
    lengths, depths, sizes, gains = (np.concatenate(column) for column in zip(*rows, strict=True))
    drafted, plain = depths >= 0, (depths < 0) & (sizes == 0)
    read = sum(catching_up(latency.begin, length - length[0], depth < 0, length) for length, depth, _, _ in rows)
    begin = latency.begin(gains[drafted], lengths[drafted])
    draft = latency.draft(depths[drafted], lengths[drafted], gains[drafted])
    # The text's candidates alone: a plain cycle, but with a tree's forward and what goes with it.
    alone = lengths[~drafted & ~plain]
    rest = latency.plain(alone) - latency.verify(0, alone) - latency.other(0, alone)
    size, length = sizes[~plain], lengths[~plain]
    parts = {
        "begin": begin.sum() + read,
        "expand": (draft - begin).sum(),
        "lookup": latency.lookup(lengths).sum() if looks_up else 0.0,
        "verify": latency.verify(size, length).sum(),
        "rest": latency.other(size, length).sum() + rest.sum(),
        "plain": latency.plain(lengths[plain]).sum(),
    }
    seconds = {name: float(value) for name, value in parts.items()}
    return ReplayedTotal(int(gains.sum()), len(gains), seconds, counted(depths[~plain]), counted(size))


def counted(values: Integers) -> dict[int, int]:
    """How often each value occurs."""
    found: Any = np.unique(values, return_counts=True)
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
