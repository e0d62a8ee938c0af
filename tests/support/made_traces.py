"""Small random traces and a latency model, for tests that need no language model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ltd.latency.model import LatencyModel, Measurements
from ltd.tree import candidate_count
from ltd_rl.traces.format import RecordedGeneration, level_starts, path_ranks

SIZES_MEASURED = {"begin": (1, 2, 8), "expand": (1, 2, 3), "verify": (0, 8, 64), "other": (0, 64),
                  "lookup": (0,), "plain": (0,), "prefill": (0,)}  # fmt: skip
MILLISECONDS = {
    "begin": 0.5, "expand": 0.4, "verify": 4.5, "other": 0.3, "lookup": 0.05, "plain": 4.6, "prefill": 50.0
}  # fmt: skip


def made_latency(verify_slope: float = 0.12, width: int = 3) -> LatencyModel:
    """Costs about as on a CPU; verification grows by so many milliseconds with every candidate."""
    lengths, parts = np.array([16.0, 64.0, 256.0]), {}
    for name, sizes in SIZES_MEASURED.items():
        slope = verify_slope if name == "verify" else 0.01
        grown = MILLISECONDS[name] + slope * np.array(sizes, dtype=np.float64)[:, None] + 0.001 * lengths
        seconds = grown / 1e3
        parts[name] = Measurements(np.array(sizes, float), lengths, seconds, seconds, seconds, np.zeros_like(seconds))
    return LatencyModel({"width": width}, parts, 1, 1.0)


def made_generation(
    seed: int, positions: int, width: int = 3, depth: int = 3, task: str = "made"
) -> RecordedGeneration:
    """Scores as a draft's might be, with ties; the path takes a node as often as its score says, more or less."""
    generator = np.random.default_rng(seed)
    starts, capacity = level_starts(width, depth), candidate_count(width, depth)
    scores = np.zeros((positions, capacity), dtype=np.float32)
    path = np.full((positions, depth + 1), -1, dtype=np.int16)
    for position in range(positions):
        above, parents, alive = np.zeros(1), np.array([-1]), True
        for level, start in enumerate(starts):
            drops = -np.cumsum(np.round(generator.exponential(0.8, (len(above), width)), 1), axis=1)
            found = (above[:, None] + drops).ravel().astype(np.float32)
            scores[position, start : start + len(found)] = found
            family = np.repeat(parents, width)
            parent = -1 if level == 0 else int(path[position, level - 1])
            children = np.flatnonzero(family == parent)
            if alive and len(children):
                own = found[children] - (scores[position, parent] if parent >= 0 else 0.0)
                place = np.searchsorted(np.cumsum(0.6 * np.exp(own)), generator.random())
                if place < len(children):
                    path[position, level] = start + children[place]
            alive = path[position, level] >= 0
            beam = np.argsort(-found, kind="stable")[:width]
            above, parents = found[beam].astype(np.float64), start + beam
    return RecordedGeneration(
        task=task,
        question_id=str(seed),
        turn=0,
        width=width,
        prompt_length=int(generator.integers(5, 90)),
        tokens=np.zeros(0, dtype=np.int32),
        candidates=np.zeros(scores.shape, dtype=np.int32),
        scores=scores,
        path=path,
        ranks=path_ranks(scores, path, width),
        states=np.zeros((positions, 2), dtype=np.float16),
    )


def made_generations(seed: int, lengths: list[int], task: str = "made") -> list[RecordedGeneration]:
    """Several, with tokens that fit."""
    found = [made_generation(seed + number, count, task=task) for number, count in enumerate(lengths)]
    return [replace(g, tokens=np.ones(g.prompt_length + len(g.scores) + 1, dtype=np.int32)) for g in found]
