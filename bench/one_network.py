"""One pair of networks that reads a machine's costs, against networks trained for each machine: by replay.

    python bench/one_network.py --traces DIR --latency NAME=FILE,… --out DIR [--seeds 3] [--jobs 2] [--machines 48]
                                [--epochs 40] [--depth 6] [--report] --policy BUNDLE

Traces as `ltd tune` keeps them give questions to train on, to choose the epoch with, and to compare on. Machines are
made up to train on; held out are the measured ones of --latency, those around the forwards of other processors in
`bench/results/instruction-sets`, some more of the kind that is trained on, and some beyond it (`cost_machines.py`).

The one pair is trained by the exact trainer with, in every epoch, every position on another of the machines; beside the
usual observation the networks read `cost_machines.shown_costs`. Another pair is trained on wider ranges. On each
held-out machine they are compared with networks trained for it, once with the updates of `ltd tune` and once with as
many as the one pair has; with those trained for the nearest machine of the training; with the policy --policy (the
shipped one) as it is, and trained on for the machine as `ltd tune --quick` does; with the best fixed tree and rule of
both sources; with the exact optimum.

Every training is a file under `tasks` of --out, so that a run that was stopped goes on. Writes `results.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cost_machines
from cost_machines import EDGES, GPU, Machine, Shares, around, drawn, made, measured, shown_costs
from cost_networks import Ground, ManyMachines, with_costs, within
from ltd.common.arrays import Integers
from ltd.common.json_files import read_json
from ltd.common.program import run_program
from ltd.latency.model import LatencyModel
from ltd.lookup import TEXT_FEATURES, TextScores
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.policy import Learned
from ltd_rl.baselines.both_search import best_both, total_of_rule
from ltd_rl.traces.format import load_traces, shallow
from ltd_rl.traces.limits import covering, summary_for
from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.optimum import best_static, optimum
from ltd_rl.traces.outcomes import Outcomes, split, total
from ltd_rl.traces.splits import ThreeWays, split_three_ways
from ltd_rl.trainers.exact import ExactConfig, train_exact
from ltd_rl.tuning.quick import CONFIG as QUICK
from ltd_rl.tuning.quick import RULES
from one_network_report import report
from timing import circumstances, write_json

RESULTS = Path(__file__).parent / "results"
TRAINED_SEED, INSIDE_SEED, INSIDE = 1, 2, 2
STRETCH = 2.5  # how far the ranges of the wide training go beyond
FORWARDS = {  # processors whose forwards were measured: type and kernels
    "Xeon, AMX": ("bfloat16", "amx_bf16"),
    "Xeon, AVX-512, float32": ("float32", "avx512"),
}
Task = Callable[[], dict[str, list[float]]]


@dataclass(frozen=True)
class Experiment:
    """Everything that the trainings share.

    Attributes:
        parts: the generations. training, validation, comparison: their tables.
        trained, held_out: machines. wide: others to train on, drawn from wider ranges.
        policy: a tuned one, whose text scores all use.
        epochs: of the one pair.
    """

    parts: ThreeWays
    training: Ground
    validation: Ground
    comparison: Ground
    trained: list[Machine]
    wide: list[Machine]
    held_out: dict[str, Machine]
    policy: Learned
    epochs: int

    @cached_property
    def nearest(self) -> dict[str, int]:
        """The number of the machine to train on whose costs are most like a held-out one's."""
        lengths = self.comparison.outcomes.lengths
        known = np.stack([shown_costs(machine, lengths).mean(0) for machine in self.trained])
        spread = known.std(0)
        found = {}
        for name, machine in self.held_out.items():
            apart = (known - shown_costs(machine, lengths).mean(0)) / spread
            found[name] = int(np.square(apart).sum(1).argmin())
        return found

    def by_question(self, policy: Learned, machine: Machine, costs: bool = False) -> list[float]:
        """Seconds of each question of the comparison; `costs`: of networks that read them."""
        outcomes = within(self.comparison.on(machine), policy.sizes, policy.depth_limit)
        if costs:
            outcomes = with_costs(outcomes, shown_costs(machine, outcomes.lengths))
        depths = stops(policy, outcomes)
        return seconds_by_question(outcomes, depths, chosen_steps(policy, outcomes, depths))

    def train(self, machine: Machine, config: ExactConfig, start: Learned | None = None) -> Learned:
        """Networks for one machine, as `ltd tune` trains them, or from some on as `ltd tune --quick` does."""
        sides = [ground.on(machine) for ground in (self.training, self.validation)]
        sizes, depth = covering(sides[0])
        summary = summary_for(sizes, TEXT_FEATURES)
        training, validation = (within(side, sizes, depth) for side in sides)
        return train_exact(training, validation, (summary, summary), config, self.policy.made_for, start=start).policy

    # --- the trainings, each of which gives seconds by question on some held-out machines ---

    def one(self, machines: Sequence[Machine], config: ExactConfig) -> dict[str, list[float]]:
        """One pair, trained for many machines, on every held-out machine."""
        tables = [self.training.on(machine) for machine in machines]
        costs = np.stack([shown_costs(machine, tables[0].lengths) for machine in machines])
        policy = ManyMachines(tables, costs, config).train(self.policy.made_for)
        return {name: self.by_question(policy, machine, costs=True) for name, machine in self.held_out.items()}

    def own(self, name: str, config: ExactConfig) -> dict[str, list[float]]:
        """Networks trained for a held-out machine."""
        return {name: self.by_question(self.train(self.held_out[name], config), self.held_out[name])}

    def quick(self, name: str, config: ExactConfig) -> dict[str, list[float]]:
        """The tuned policy, trained on for a held-out machine."""
        machine = self.held_out[name]
        return {name: self.by_question(self.train(machine, config, self.policy), machine)}

    def near(self, number: int, config: ExactConfig) -> dict[str, list[float]]:
        """Networks trained for a machine of the training, on the held-out machines that it is the nearest of."""
        policy = self.train(self.trained[number], config)
        mine = [name for name, nearest in self.nearest.items() if nearest == number]
        return {name: self.by_question(policy, self.held_out[name]) for name in mine}

    def as_it_is(self) -> dict[str, list[float]]:
        """The tuned policy on every held-out machine."""
        return {name: self.by_question(self.policy, machine) for name, machine in self.held_out.items()}

    def plain(self) -> dict[str, list[float]]:
        """Plain decoding."""
        found = {}
        for name, machine in self.held_out.items():
            parts = each_question(self.comparison.on(machine))
            found[name] = [float(part.plain_seconds.sum(dtype=np.float64)) for part in parts]
        return found

    def tree(self, name: str) -> dict[str, list[float]]:
        """The best fixed depth and size, chosen on the questions to train on."""
        machine = self.held_out[name]
        depth, step, _ = best_static(self.training.on(machine))
        outcomes = self.comparison.on(machine)
        everywhere = np.ones(outcomes.positions, dtype=np.int64)
        return {name: seconds_by_question(outcomes, depth * everywhere, step * everywhere)}

    def rule(self, name: str) -> dict[str, list[float]]:
        """The best rule of both sources, chosen as `ltd tune --quick` does."""
        machine, text = self.held_out[name], self.text
        rule = best_both(self.parts.known[::2], machine, text, RULES)[0]
        return {name: [total_of_rule(rule, [each], machine, text).seconds for each in self.parts.comparison]}

    def best(self, name: str) -> dict[str, list[float]]:
        """The optimum."""
        outcomes = self.comparison.on(self.held_out[name])
        schedule = optimum(outcomes)
        return {name: seconds_by_question(outcomes, schedule.depths, schedule.steps)}

    def facts(self) -> dict[str, Any]:
        """What was trained and compared on how much."""
        grounds = {"training": self.training, "validation": self.validation, "comparison": self.comparison}
        positions = {name: ground.outcomes.positions for name, ground in grounds.items()}
        questions = {name: len(ground.outcomes.starts) - 1 for name, ground in grounds.items()}
        an_epoch, usual = positions["training"] // ExactConfig().batch, ExactConfig().epochs
        return {
            "positions": positions,
            "questions": questions,
            "machines": {"trained on": len(self.trained), "held out": len(self.held_out)},
            "updates": {"one": self.epochs * an_epoch, "own": usual * an_epoch, "quick": QUICK.epochs * an_epoch},
        }

    @property
    def text(self) -> TextScores:
        """How likely looked-up tokens are."""
        assert self.policy.text_scores is not None
        return self.policy.text_scores


def each_question(outcomes: Outcomes) -> list[Outcomes]:
    """The tables of every generation by itself; there is one to a question."""
    return [split(outcomes, [number]) for number in range(len(outcomes.starts) - 1)]


def seconds_by_question(outcomes: Outcomes, depths: Integers, steps: Integers) -> list[float]:
    """What decisions (P,) take, generation by generation."""
    blocks = [slice(*outcomes.starts[number : number + 2]) for number in range(len(outcomes.starts) - 1)]
    return [
        total(part, depths[block], steps[block]).seconds
        for part, block in zip(each_question(outcomes), blocks, strict=True)
    ]


def prepared(options: argparse.Namespace) -> Experiment:
    """Reads and looks up everything."""
    files = dict(entry.partition("=")[::2] for entry in options.latency.split(","))
    policy = load_bundle(options.policy).policy
    assert policy.text_scores is not None
    generations = [shallow(each, options.depth) for each in load_traces(options.traces).generations]
    parts = split_three_ways([each for each in generations if each.positions])
    held_out = {f"{name}, measured": measured(LatencyModel.load(file)) for name, file in files.items()}
    forwards = read_json(RESULTS / "instruction-sets" / "results.json", dict[str, Any])["instruction_sets"]
    for name, (dtype, kernels) in FORWARDS.items():
        times = {int(tokens): found["median"] for tokens, found in forwards[dtype][kernels].items()}
        held_out[f"{name}, forward measured"] = around(times, Shares())
    held_out |= {f"inside {number + 1}": machine for number, machine in enumerate(drawn(INSIDE, INSIDE_SEED))}
    held_out["like a GPU"] = made(GPU, cost_machines.curve(GPU))
    held_out |= {name: made(shares, cost_machines.curve(shares)) for name, shares in EDGES.items()}
    any_machine = next(iter(held_out.values()))
    grounds = (
        Ground.of(side, any_machine, policy.text_scores)
        for side in (parts.training, parts.validation, parts.comparison)
    )
    trained, wide = (drawn(options.machines, TRAINED_SEED, stretch) for stretch in (1.0, STRETCH))
    return Experiment(parts, *grounds, trained, wide, held_out, policy, options.epochs)


def tasks_of(experiment: Experiment, seeds: int) -> dict[str, Task]:
    """All that is to be done, by name: the way, then what tells several of the same way apart."""
    long = ExactConfig(epochs=experiment.epochs)
    tasks: dict[str, Task] = {"plain": experiment.plain, "as it is": experiment.as_it_is}
    for way, machines in (("one", experiment.trained), ("wide", experiment.wide)):
        tasks |= {f"{way} {seed}": partial(experiment.one, machines, replace(long, seed=seed)) for seed in range(seeds)}
    names, nearest = list(experiment.held_out), sorted(set(experiment.nearest.values()))
    tasks |= {f"tree {name}": partial(experiment.tree, name) for name in names}
    tasks |= {f"best {name}": partial(experiment.best, name) for name in names}
    tasks |= {f"own 0 {name}": partial(experiment.own, name, ExactConfig()) for name in names}
    tasks |= {f"quick 0 {name}": partial(experiment.quick, name, QUICK) for name in names}
    tasks |= {f"near {number}": partial(experiment.near, number, ExactConfig()) for number in nearest}
    tasks |= {f"rule {name}": partial(experiment.rule, name) for name in names}
    for seed in range(1, seeds):
        tasks |= {f"own {seed} {name}": partial(experiment.own, name, ExactConfig(seed=seed)) for name in names}
        tasks |= {f"quick {seed} {name}": partial(experiment.quick, name, replace(QUICK, seed=seed)) for name in names}
    return tasks | {f"long {name}": partial(experiment.own, name, long) for name in names}


class Work:
    """What the processes that are forked share."""

    tasks: dict[str, Task]
    folder: Path


def file_of(name: str) -> Path:
    """Where the results of a task are."""
    return Work.folder / f"{name.replace(' ', '-').replace(',', '')}.json"


def run(name: str) -> tuple[str, dict[str, list[float]]]:
    """Does a task, or reads what came of it before."""
    torch.set_num_threads(1)
    file = file_of(name)
    if not file.exists():
        write_json(file, Work.tasks[name]())
    return name, read_json(file, dict[str, list[float]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, help="folder of whole traces")
    parser.add_argument("--latency", required=True, help="NAME=FILE,… of measured machines")
    parser.add_argument("--policy", type=Path, required=True, help="a tuned bundle, which sees the text")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--machines", type=int, default=48, help="machines to train on")
    parser.add_argument("--epochs", type=int, default=40, help="of the one pair")
    parser.add_argument("--depth", type=int, default=6, help="deepest decision")
    parser.add_argument("--report", action="store_true", help="of the tasks that are done, without doing more")
    options = parser.parse_args(arguments)
    experiment = prepared(options)
    Work.tasks, Work.folder = tasks_of(experiment, options.seeds), options.out / "tasks"
    done = {}
    wanted = [name for name in Work.tasks if not options.report or file_of(name).exists()]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        for name, found in pool.map(run, wanted):
            print(name, {machine: round(sum(seconds), 3) for machine, seconds in found.items()}, flush=True)
            done[name] = found
    results = report(list(experiment.held_out), experiment.comparison.outcomes.tokens, done)
    write_json(options.out / "results.json", {**circumstances(), **experiment.facts(), **results})
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
