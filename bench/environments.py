"""Times the replay environments: cycles and steps per second of one core, for both policies and their observations.

    python bench/environments.py [--traces FOLDER --latency FILE] [--count 256] [--seconds 3] [--json FILE]

Actions are random; a depth policy goes on four times out of five. It is the core's time that counts, so other programs
matter less than for the clock. Without a folder it makes traces up, 50 generations of 128 tokens, and costs that are
linear in everything.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from console import wide_console
from ltd.common.table import Table
from ltd.errors import InputError
from ltd.latency.model import PARTS, LatencyModel, Measurements
from ltd.policies.learned.observation import Summary, depth_layout, size_layout
from ltd_rl.environments.replay_env import ReplayVecEnv
from ltd_rl.environments.rewards import Reward
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from replay import MADE_UP, make_up
from timing import Timing, circumstances, rounds_for, write_json

SIZES = tuple(range(20, 241, 20))
STEPS = 100  # of every environment, in one measurement
GO_ON = 0.8


@dataclass(frozen=True)
class Rate:
    """What one kind of environment does, per second.

    Attributes:
        width: numbers in an observation.
        cycles, steps: per second of the core, all environments together, at the median.
        timing: microseconds of the core for 100 steps of all environments.
    """

    width: int
    cycles: float
    steps: float
    timing: Timing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of ltd record; made-up traces if not given")
    parser.add_argument("--latency", type=Path, help="file of ltd calibrate; made-up costs if not given")
    parser.add_argument("--count", type=int, default=256, help="environments at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per kind of environment")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        latency = LatencyModel.load(options.latency) if options.latency else linear_costs()
        generations = load_traces(options.traces).generations if options.traces else make_up(50, 127)
        outcomes = outcomes_of(generations, latency, SIZES)
        rates = {name: measure(env, options.seconds) for name, env in environments(outcomes, options.count).items()}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [[name, str(rate.width), f"{rate.cycles:,.0f}", f"{rate.steps:,.0f}"] for name, rate in rates.items()]
    title = f"{options.count} replay environments at once, traces: {options.traces or MADE_UP}"
    wide_console().print(Table(title, ["environment", "width", "cycles/s", "steps/s"], rows).rich())
    if options.json:
        results = {name: asdict(rate) for name, rate in rates.items()}
        write_json(options.json, {**circumstances(), "traces": title, "rates": results})
    return 0


def environments(outcomes: Outcomes, count: int) -> dict[str, ReplayVecEnv]:
    """By policy and observation."""
    width, states, plain = outcomes.width, outcomes.states.shape[1], float(outcomes.plain_seconds.mean())
    sizes = np.full((outcomes.positions, outcomes.depth + 1), 2)
    layouts = {
        "summary": (Summary(16, 16), Summary(16, 16)),
        "summary with state": (Summary(16, 16, states), Summary(16, 16, states)),
        "the paper's": (depth_layout(width), size_layout(width, outcomes.depth)),
    }
    made = {}
    for name, (for_depth, for_size) in layouts.items():
        reward = Reward.named("renewal", plain)
        made[f"depth, {name}"] = ReplayVecEnv(outcomes, "depth", for_depth, reward, sizes, count, seed=0)
        made[f"size, {name}"] = ReplayVecEnv(outcomes, "size", for_size, reward, "random", count, seed=0)
    return made


def measure(env: ReplayVecEnv, seconds: float) -> Rate:
    """Steps of random actions, drawn beforehand."""
    generator, shape = np.random.default_rng(0), (STEPS, env.num_envs)
    is_depth, cycles = env.walk.role == "depth", 0
    actions = (
        (generator.random(shape) < GO_ON).astype(np.int64) if is_depth else generator.integers(0, len(SIZES), shape)
    )

    def once() -> None:
        nonlocal cycles
        for row in actions:
            _, rewards, _, _ = env.step(row)
            cycles += int(np.count_nonzero(rewards))

    env.reset()
    once()  # also builds the tables
    cycles = 0
    times = []
    for _ in rounds_for(seconds):
        start = time.process_time()
        once()
        times.append(time.process_time() - start)
    timing = Timing.of(times)
    each = timing.median / 1e6
    return Rate(env.walk.observer.layout.width, cycles / len(times) / each, STEPS * env.num_envs / each, timing)


def linear_costs() -> LatencyModel:
    """Made-up costs of about a small model's on two cores."""
    cost = {
        "begin": 0.002,
        "expand": 0.002,
        "verify": 0.03,
        "other": 0.001,
        "lookup": 0.0,
        "plain": 0.03,
        "prefill": 0.1,
    }
    parts = {name: linear_part(cost[name]) for name in PARTS}
    return LatencyModel({"processor": MADE_UP}, parts, rounds=1, seconds=0.0)


def linear_part(seconds: float) -> Measurements:
    """So many seconds for nothing, twice as many for 100 of anything."""
    median = np.array([[seconds], [2 * seconds]])
    nothing = np.zeros_like(median)
    return Measurements(np.array([0.0, 100.0]), np.array([0.0]), median, median, median, nothing)


if __name__ == "__main__":
    sys.exit(main())
