"""Times replays of traces: cycles per second on one core, for several kinds of decisions.

    python bench/replay.py [--traces FOLDER] [--seconds 3] [--json FILE]

Without a folder it makes traces up, 50 generations of 128 tokens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from console import wide_console
from ltd.common.table import Table
from ltd.errors import InputError
from ltd.policies import Static
from ltd.tree import candidate_count
from ltd_rl.traces.arrays import NO_RANK
from ltd_rl.traces.format import RecordedGeneration, load_traces
from ltd_rl.traces.replay import Decisions, replay
from timing import Timing, circumstances, rounds_for, time_in_turns, write_json

WIDTH, DEPTH, STATE = 10, 12, 576
MADE_UP = "made up"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of ltd record; made-up traces if not given")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per kind of decisions")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        generations = load_traces(options.traces).generations if options.traces else make_up(50, 127)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = {kind: measure(generations, chosen, options.seconds) for kind, chosen in kinds(generations).items()}
    rows = [[kind, f"{cycles:,}", f"{cycles / timing.median * 1e6:,.0f}"] for kind, (cycles, timing) in results.items()]
    where = str(options.traces or MADE_UP)
    wide_console().print(Table(f"replays, traces: {where}", ["decisions", "cycles", "cycles/s"], rows).rich())
    if options.json:
        passes = {kind: {"cycles": cycles, **asdict(timing)} for kind, (cycles, timing) in results.items()}
        write_json(options.json, {**circumstances(), "traces": where, "microseconds": passes})
    return 0


def kinds(generations: Sequence[RecordedGeneration]) -> dict[str, list[Decisions]]:
    """Decisions for every generation, by what they are."""
    generator, depth = np.random.default_rng(0), min(generation.depth for generation in generations)

    def at_every_position(generation: RecordedGeneration) -> Decisions:
        count = generation.positions
        return generator.integers(0, depth + 1, count), generator.integers(0, 241, count)

    return {
        "fixed (0, 3)": [(0, 3)] * len(generations),
        f"fixed ({min(8, depth)}, 60)": [(min(8, depth), 60)] * len(generations),
        "arrays": [at_every_position(generation) for generation in generations],
        f"policy, static ({min(4, depth)}, 20)": [Static(min(4, depth), 20)] * len(generations),
    }


def measure(
    generations: Sequence[RecordedGeneration], decisions: Sequence[Decisions], seconds: float
) -> tuple[int, Timing]:
    """The cycles of one pass over all generations, and how long a pass takes."""

    def once() -> int:
        return sum(len(replay(*pair).gains) for pair in zip(generations, decisions, strict=True))

    cycles = once()  # also reads the files
    (times,) = time_in_turns([once], rounds_for(seconds))
    return cycles, Timing.of(times)


def make_up(count: int, positions: int) -> list[RecordedGeneration]:
    """Generations whose paths are about as long as a fair head's."""
    generator, levels = np.random.default_rng(0), DEPTH + 1
    level = np.arange(levels)
    generations = []
    for number in range(count):
        ranks = generator.geometric(0.1, (positions, 1, levels)).cumsum(axis=2) - 1
        there = (level < generator.geometric(0.5, (positions, 1, 1)) - 1) & (level <= level[:, None])
        generations.append(
            RecordedGeneration(
                task=MADE_UP,
                question_id=str(number),
                turn=0,
                width=WIDTH,
                prompt_length=50,
                tokens=np.zeros(50 + positions + 1, dtype=np.int32),
                candidates=np.zeros((positions, candidate_count(WIDTH, DEPTH)), dtype=np.int32),
                scores=np.zeros((positions, candidate_count(WIDTH, DEPTH)), dtype=np.float32),
                path=np.full((positions, levels), -1, dtype=np.int16),
                states=np.zeros((positions, STATE), dtype=np.float16),
                ranks=np.where(there, ranks, NO_RANK).astype(np.uint16),
            )
        )
    return generations


if __name__ == "__main__":
    sys.exit(main())
