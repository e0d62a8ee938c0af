"""Measures what the parts of a cycle cost on this machine, by running real cycles at chosen sizes and lengths.

A measured cycle is the decoder's own, drafted to the full depth: it brings a sample of the beginning, of every
expansion, of the verification of its size and of the rest. All points are visited in rounds, each in a new order, so
that a moment in which the machine is slow hits no point more than another.
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
from ltd.latency.cycle_bench import CycleBench, Plan, Timings
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
    return LatencyModel(setup_of(decoder, target), parts, rounds, time.perf_counter() - begun)


def run_rounds(bench: CycleBench, plan: Plan, samples: Timings) -> int:
    """Runs all points again and again until the time is over, and adds what they took; returns the rounds."""
    points, order = bench.points(), random.Random(plan.seed)
    # Every cycle has one gain, so few sizes need more rounds to meet each gain.
    least = max(LEAST_ROUNDS, math.ceil(LEAST_ROUNDS * len(plan.gains) / len(bench.grid["verify"])))
    begun = before = time.perf_counter()
    rounds, left = -1, 1  # the first round only warms up
    with tqdm(total=(least + 1) * len(points), unit="point", desc="calibrating") as progress:
        while left > 0:
            order.shuffle(points)
            for point in points:
                for key, seconds in point():
                    samples[key].append(seconds)
                progress.update()
            if rounds < 0:
                samples.clear()
            now = time.perf_counter()
            rounds += 1
            left = max(least - rounds, int((plan.seconds - (now - begun)) / (now - before)))
            before = now
            progress.total = progress.n + left * len(points)
    return rounds


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
