"""Measures what the parts of a cycle cost on this machine, by running real cycles at chosen sizes and lengths.

A measured cycle is the decoder's own: it brings a sample of the beginning, of the expansions, of the verification of
its size and of the rest. Points are visited in rounds, each in a new order, so that a moment in which the machine is
slow hits no point more than another. After three rounds, or as many as there is time for, those that have had more than
their part of the time are passed over: a verification of two hundred candidates takes as long as fifty of one, where it
pays far more to know exactly what it costs. So where time is short, or the machine slow, large trees are measured once,
which is enough to see that they cost too much, and small ones more often.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ltd.decoding.decoder import Decoder
from ltd.latency.cycle_bench import DEEP, CycleBench, Plan, Timings
from ltd.latency.model import LatencyModel, Measurements, setup_of

ROUNDS = 3  # of all points, where there is time for them


@torch.inference_mode()
def calibrate(
    decoder: Decoder,
    plan: Plan | None = None,
    *,
    target: str | Path | None = None,
) -> LatencyModel:
    """Measures on this machine; shows a progress bar.

    Args:
        decoder: with a draft, or one that looks tokens up without, as `ltd.load` makes it of the draft "lookup"; unused
            meanwhile.
        plan: what to measure; None is the default.
        target: what the decoder's was loaded from, as for `ltd.load`; it names it in the result.

    Raises:
        InputError: a decoder of plain decoding alone, or a length that does not fit its context.
    """
    plan = Plan() if plan is None else plan
    begun = time.perf_counter()
    bench = CycleBench(decoder, plan)
    samples: Timings = defaultdict(list)
    rounds = run_rounds(bench, plan, samples)
    parts = {part: summarise(samples, part, sizes, bench.lengths) for part, sizes in bench.grid.items()}
    return LatencyModel(setup_of(decoder, target, plan.width), parts, rounds, time.perf_counter() - begun)


def run_rounds(bench: CycleBench, plan: Plan, samples: Timings) -> int:
    """Visits the points again and again until the time is over, and adds what they took.

    Returns:
        how often the least visited of them was.
    """
    points, order = bench.points(), random.Random(plan.seed)
    least, wanted = (least_visits(times, len(plan.gains), len(bench.grid["verify"])) for times in (1, ROUNDS))
    begun = time.perf_counter()
    warming = warm_up(bench, order)
    now = time.perf_counter()
    if not bench.may_record:
        say_if_long(plan.seconds, (now - begun) * (1 + least * len(points) / warming))
    visits, spent = [0] * len(points), [0.0] * len(points)
    chosen = list(range(len(points)))
    with tqdm(total=least * len(points), unit="point", desc="calibrating") as progress:
        while chosen:
            order.shuffle(chosen)
            for number in chosen:
                for key, seconds in points[number]():
                    samples[key].append(seconds)
                before, now = now, time.perf_counter()
                visits[number], spent[number] = visits[number] + 1, spent[number] + now - before
                progress.update()
            left = plan.seconds - (now - begun)
            chosen = next_round(visits, spent, left, least, wanted)
            # As fast as so far, though those that are left are mostly the faster ones.
            progress.total = progress.n + max(len(chosen), int(left * progress.n / sum(spent)) if chosen else 0)
    return min(visits)


def warm_up(bench: CycleBench, order: random.Random) -> int:
    """Visits the points whose first time takes longer than others; how many there are."""
    points = bench.warming_points()
    order.shuffle(points)
    for time_point in points:
        for _ in time_point():
            pass
    return len(points)


def say_if_long(seconds: float, needed: float) -> None:
    """Says how long the least takes, where that is longer than was asked for."""
    if needed > seconds:
        print(
            f"measuring everything once takes up to {needed:.0f} s here, longer than the {seconds:.0f} s asked for",
            file=sys.stderr,
        )


def least_visits(times: int, gains: int, sizes: int) -> int:
    """Rounds of all points in which every part is measured so often: a cycle has one gain, and few are deep."""
    return max(times, math.ceil(times * max(gains, DEEP) / sizes))


def next_round(visits: list[int], spent: list[float], left: float, least: int, wanted: int) -> list[int]:
    """The points of the next round; none where it is the end.

    Args:
        visits, spent: how often and how long every point was visited, once at least. left: seconds.
        least: visits of every point, however long they take.
        wanted: the same as far as there is time.
    """
    takes = sum(seconds / count for seconds, count in zip(spent, visits, strict=True))
    if min(visits) < least or (min(visits) < wanted and takes <= left):
        return list(range(len(visits)))
    return next_points(visits, spent, left)


def next_points(visits: list[int], spent: list[float], left: float) -> list[int]:
    """The points that have had at most their part of the time; none where no time is left for them.

    Args:
        visits, spent: how often and how long every point was visited. left: seconds.
    """
    part = max(min(spent), sum(spent) / len(spent))  # of equal times the mean may be less by a rounding
    chosen = [number for number, seconds in enumerate(spent) if seconds <= part]
    takes = sum(spent[number] / visits[number] for number in chosen)
    return chosen if takes <= left else []


def summarise(samples: Timings, part: str, sizes: list[int], lengths: list[int]) -> Measurements:
    """Medians, quartiles and drift of one part at all its points."""
    cells = [samples[part, size, length] for size in sizes for length in lengths]
    shape = (len(sizes), len(lengths))
    low, median, high = (np.array([np.quantile(cell, q) for cell in cells]).reshape(shape) for q in (0.25, 0.5, 0.75))
    drift = np.array([drift_of(cell) for cell in cells]).reshape(shape)
    return Measurements(np.array(sizes, float), np.array(lengths, float), median, low, high, drift)


def drift_of(samples: list[float]) -> float:
    """How much the later half's median is above the earlier half's, relative to it; 0 if there is nothing to tell."""
    half = len(samples) // 2
    earlier = float(np.median(samples[:half])) if half else 0.0
    return float(np.median(samples[half:])) / earlier - 1 if earlier else 0.0
