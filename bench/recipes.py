"""Trains policies in every way there is here, on the same traces and costs, and puts what they come to into one table.

    python bench/recipes.py --traces FOLDER --latency FILE [--also FOLDER ...] [--scale 0.1] [--out out/recipes]

A fifth of the questions is held out and seen by no recipe; of the others, a fifth chooses among the networks of a
training. Everything is replayed, so the time that a policy takes to decide is not in the numbers. All recipes have the
sizes and depths that are worth having on the machine that the costs are of.

The folder gets the policies as bundles, `recipes.json` and `table.md`. Run again, the command trains what is missing; a
training by PPO that was interrupted goes on from its last validation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from console import wide_console
from ltd.common.files import write_text
from ltd.common.journal import Journal
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.policies.learned.bundle import load_bundle
from ltd.tree import NOT_ASKED
from ltd_rl.baselines.controller_fit import fit
from ltd_rl.traces.format import RecordedGeneration, load_traces
from ltd_rl.traces.limits import worthwhile
from ltd_rl.traces.optimum import best_static, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from ltd_rl.traces.splits import VALIDATION_SEED, split_generations
from ltd_rl.trainers.partners import constants
from ltd_rl.trainers.validation import fingerprint
from recipes_results import (
    Decisions,
    Row,
    Spending,
    compared,
    constant,
    controlled,
    drafted,
    learned,
    make_table,
    spend,
)
from recipes_training import FINISHED, RECIPES, Ground, Recipe, bundle_folder
from timing import circumstances, write_json

HELD_OUT = "held out"
EAGLE3 = (8, 60)
TITLE = "Ways to train a policy, compared by replay"
RESULTS, TABLE = "recipes.json", "table.md"


@dataclass(frozen=True, eq=False)
class Test:
    """Generations that everything is measured on.

    Attributes:
        outcomes: with the ladder and the depth limit of the recipes.
        eagle3: of EAGLE-3's depth and size, which they may not have; None if the traces are not deep enough.
        static: depth and step of the best static setting.
    """

    outcomes: Outcomes
    eagle3: Outcomes | None
    static: tuple[int, int]

    def spent(self, decisions: Decisions) -> Spending:
        """What decisions come to."""
        return spend(self.outcomes, decisions)

    @cached_property
    def plain(self) -> Spending:
        """Plain decoding."""
        return self.spent(constant(self.outcomes, NOT_ASKED, 0))

    @cached_property
    def by_static(self) -> Spending:
        """The best static setting."""
        return self.spent(constant(self.outcomes, *self.static))


Tests = dict[str, Test]


@dataclass(frozen=True, eq=False)
class Known:
    """The part of the traces that is not held out: its generations, and their tables in one piece."""

    generations: list[RecordedGeneration]
    outcomes: Outcomes


def main(arguments: Sequence[str] | None = None, recipes: Sequence[Recipe] = RECIPES) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)
    try:
        run(options, recipes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, help="folder of ltd record to train and compare on")
    parser.add_argument("--latency", type=Path, required=True, help="file of ltd calibrate")
    parser.add_argument("--also", type=Path, action="append", default=[], help="traces of other tasks, to compare on")
    parser.add_argument("--scale", type=float, default=0.1, help="PPO's steps as a share of the paper's")
    parser.add_argument("--small-scale", type=float, help="the same for the small networks; --scale if not given")
    parser.add_argument("--out", type=Path, default=Path("out/recipes"), help="folder for policies and results")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Trains what is missing. The results are written anew after every recipe, so that they are there if time runs out.

    Raises:
        InputError: something is missing or damaged, or the folder is of other traces, costs or scales.
    """
    latency = LatencyModel.load(options.latency)
    loaded = {name: load_traces(folder).generations for name, folder in folders(options).items()}
    known, held_out = split_generations(loaded[HELD_OUT])
    loaded[HELD_OUT] = held_out
    sizes, depth = worthwhile(known, latency)
    sides = (*split_generations(known, seed=VALIDATION_SEED), known)
    training, validation, both = (outcomes_of(side, latency, sizes, depth) for side in sides)
    level, step, _ = best_static(both)
    small_scale = options.scale if options.small_scale is None else options.small_scale
    ground = Ground(training, validation, (level, step), options.scale, small_scale)
    tests = {name: test_of(generations, latency, ground) for name, generations in loaded.items()}
    with Journal(options.out / "run.jsonl", settings(ground), FINISHED):
        rows = list(references(Known(known, both), latency, tests))
        for recipe in tqdm(recipes, unit="recipe"):
            recipe.train(ground, options.out)
            rows += [row_of(name, options.out, tests) for name in recipe.rows]
            report(rows, ground, tests, options.out)
    console = wide_console()
    console.print(make_table(rows, TITLE).rich())
    for note in notes(ground, tests):
        console.print(note, highlight=False)


def folders(options: argparse.Namespace) -> dict[str, Path]:
    """The traces by name. Raises InputError if two folders have one name, or the scales cannot be."""
    scales = [options.scale, *([] if options.small_scale is None else [options.small_scale])]
    if min(scales) <= 0:
        raise InputError(f"a scale of {min(scales)} leaves nothing to train; it must be above 0")
    named = {HELD_OUT: options.traces, **{folder.name: folder for folder in options.also}}
    if len(named) <= len(options.also):
        raise InputError("the folders of --also must have different names, which head their columns")
    return named


def test_of(generations: Sequence[RecordedGeneration], latency: LatencyModel, ground: Ground) -> Test:
    """Generations, with the choices that the recipes have."""
    outcomes = outcomes_of(generations, latency, ground.training.sizes, ground.training.depth)
    depth, size = EAGLE3
    deep = min(generation.depth for generation in generations) >= depth
    return Test(outcomes, outcomes_of(generations, latency, (size,), depth) if deep else None, ground.static)


def settings(ground: Ground) -> dict[str, Any]:
    """What the policies in a folder depend on."""
    tables = [(o.lengths, o.gains, o.seconds) for o in (ground.training, ground.validation)]
    return {
        "sizes": list(ground.training.sizes),
        "scale": ground.scale,
        "small_scale": ground.small_scale,
        "traces_and_latencies": fingerprint(*tables[0], *tables[1]),
    }


# --- rows ---


def references(known: Known, latency: LatencyModel, tests: Tests) -> Iterator[Row]:
    """What needs no training in steps: constant trees, the controller, and the optimum."""
    static = next(iter(tests.values())).static
    size = known.outcomes.sizes[static[1]]
    yield row(f"best static ({static[0]}, {size})", tests, {name: test.by_static for name, test in tests.items()})
    eagle3 = {
        name: spend(test.eagle3, constant(test.eagle3, EAGLE3[0], 0))
        for name, test in tests.items()
        if test.eagle3 is not None
    }
    if len(eagle3) == len(tests):
        yield row(f"EAGLE-3 {EAGLE3}", tests, eagle3)
    wall, cpu = time.perf_counter(), time.process_time()
    controller, _ = fit(known.generations, drafted(known.outcomes), latency)
    taken = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    found = {name: test.spent(controlled(controller, test.outcomes)) for name, test in tests.items()}
    yield row("controller, calibrated", tests, found, taken)
    best = {name: optimum(test.outcomes) for name, test in tests.items()}
    found = {name: tests[name].spent((schedule.depths, schedule.steps)) for name, schedule in best.items()}
    yield row("optimum, knows the future", tests, found)


def row_of(name: str, out: Path, tests: Tests) -> Row:
    """A trained policy's."""
    bundle = load_bundle(bundle_folder(out, name))
    found = {each: test.spent(learned(bundle.policy, test.outcomes)) for each, test in tests.items()}
    return row(name, tests, found, dict(bundle.training))


def row(name: str, tests: Tests, spent: dict[str, Spending], training: dict[str, Any] | None = None) -> Row:
    """A row with the figures of every test."""
    figures = {each: compared(spent[each], test.by_static, test.plain) for each, test in tests.items()}
    return Row(name, figures, training or {})


# --- results ---


def report(rows: Sequence[Row], ground: Ground, tests: Tests, out: Path) -> None:
    """Writes `recipes.json` and `table.md`."""
    said = notes(ground, tests)
    content = {"settings": settings(ground), "notes": said, "rows": [row.to_dict() for row in rows]}
    write_json(out / RESULTS, {**circumstances(), **content})
    write_text(out / TABLE, "\n".join([make_table(rows, TITLE).markdown(), *(f"{note}\n" for note in said)]))


def notes(ground: Ground, tests: Tests) -> list[str]:
    """Sentences for below the table."""
    outcomes = ground.training
    constant_size = outcomes.sizes[constants(outcomes)[1]]
    positions = ", ".join(f"{len(test.outcomes.starts) - 1} answers of {name}" for name, test in tests.items())
    return [
        "Replayed: tokens per second leave prefill out, and the time that a policy takes to decide.",
        f"Sizes {', '.join(map(str, outcomes.sizes))}, depths 0 to {outcomes.depth}: what the optimum uses here. "
        "The best static setting was chosen on all that is not held out.",
        f"{outcomes.positions} positions train, {ground.validation.positions} choose the network of a training; "
        f"measured on {positions}, which no recipe saw. The interval is over the held-out answers.",
        f"PPO's depth policies begin beside size {constant_size}, its size policies beside depths drawn from 1 to "
        f"{outcomes.depth}. -size is a depth policy alone, -depth a size policy alone, beside the best static "
        "setting's size or depth. Iter0 is the paper's -iterative.",
        f"PPO's steps are {ground.scale:g} of the paper's with the paper's observation and networks, and "
        f"{ground.small_scale:g} of them with the summary and small ones.",
    ]


if __name__ == "__main__":
    sys.exit(main())
