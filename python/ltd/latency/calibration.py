"""Measures what the parts of a cycle cost on this machine, by running real cycles at chosen sizes and lengths.

A measured cycle is the decoder's own: it brings a sample of the beginning, of the expansions, of the verification of
its size and of the rest. Points are visited in rounds, each in a new order, so that a moment in which the machine is
slow hits no point more than another. After the least number of rounds those that have had more than their part of the
time are passed over: a verification of two hundred candidates takes as long as fifty of one, where it pays far more to
know exactly what it costs.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ltd.decoding.decoder import Decoder
from ltd.latency.cycle_bench import DEEP, CycleBench, Plan, Timings
from ltd.latency.model import LatencyModel, Measurements, setup_of

LEAST_ROUNDS = 3


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
    least = least_rounds(len(plan.gains), len(bench.grid["verify"]))
    visits, spent = [0] * len(points), [0.0] * len(points)
    begun = now = time.perf_counter()
    chosen, rounds = list(range(len(points))), -1  # the first round only warms up
    with tqdm(total=(least + 1) * len(points), unit="point", desc="calibrating") as progress:
        while chosen:
            order.shuffle(chosen)
            for number in chosen:
                for key, seconds in points[number]():
                    samples[key].append(seconds)
                before, now = now, time.perf_counter()
                visits[number], spent[number] = visits[number] + 1, spent[number] + now - before
                progress.update()
            if rounds < 0:
                samples.clear()
            rounds += 1
            left = plan.seconds - (now - begun)
            chosen = next_points(visits, spent, left) if rounds >= least else list(range(len(points)))
            if rounds >= least and chosen:
                # As fast as so far, though those that are left are mostly the faster ones.
                progress.total = progress.n + max(len(chosen), int(left * progress.n / (now - begun)))
        progress.total = progress.n
    return min(visits) - 1


def least_rounds(gains: int, sizes: int) -> int:
    """Rounds in which all points are visited; cycles have one gain each, and few sizes need more to meet all gains."""
    return max(LEAST_ROUNDS, math.ceil(LEAST_ROUNDS * max(gains, DEEP) / sizes))


def next_points(visits: list[int], spent: list[float], left: float) -> list[int]:
    """The points that have had at most their part of the time; none where no time is left for them.

    Args:
        visits, spent: how often and how long every point was visited. left: seconds.
    """
    part = sum(spent) / len(spent)
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


# --- one point ---
