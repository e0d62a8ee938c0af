"""What ways to decide come to on recorded generations, from plain decoding up to the exact optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltd.common.arrays import Integers
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.policies import Learned
from ltd.policies.controller import ExpectedGain, load_controller, save_controller
from ltd.policies.learned.bundle import load_bundle
from ltd_rl.baselines.controller_fit import decide_everywhere, fit
from ltd_rl.traces.format import RecordedGeneration, Traces, load_traces
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.optimum import DraftSchedule, best_static, hindsight, optimum
from ltd_rl.traces.outcomes import PLAIN, Outcomes, catching_up, outcomes_of
from ltd_rl.traces.replay import Cycles, replay

SIZES = EVERY_SIZE[1:]  # the ladder of all that choose freely
EAGLE3 = (8, 60)
PARTS = ("begin", "expand", "verify", "rest", "plain")
STATIC, OPTIMUM = "best static", "optimum"
CONTROLLER_FILE = "controller.json"

Decide = Callable[[Sequence[RecordedGeneration], Outcomes], Iterable[Cycles]]


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    """What to compare.

    Attributes:
        traces: the folder that everything is measured on.
        latency: file of the machine's latencies.
        out: folder for the results.
        policies: folders of policy bundles.
        controller: file of a controller; None: one is fitted to the traces in `fit`, if that is given.
        fit: folder of traces.
        static_from: folder of the traces that the best static decision is chosen on; None: `traces` itself.
    """

    traces: Path
    latency: Path
    out: Path
    policies: tuple[Path, ...] = ()
    controller: Path | None = None
    fit: Path | None = None
    static_from: Path | None = None

    def __post_init__(self) -> None:
        if self.controller is not None and self.fit is not None:
            raise InputError("give either a controller or traces to fit one to, not both")


@dataclass(frozen=True, slots=True)
class ReplayedTotal:
    """What one way to decide came to on one task. A cycle that verifies nothing is plain.

    Attributes:
        tokens, cycles: how many.
        seconds: by part of the cycle, `PARTS`.
        depths, sizes: how many drafting cycles had each.
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
        """Over all cycles, plain ones as 0."""
        return sum(depth * count for depth, count in self.depths.items()) / self.cycles

    @property
    def mean_size(self) -> float:
        """Over all cycles, plain ones as 0."""
        return sum(size * count for size, count in self.sizes.items()) / self.cycles


Analysis = dict[str, dict[str, ReplayedTotal]]
"""By task, then by the name of the way to decide, all in the same order."""


def analyse(config: AnalysisConfig) -> tuple[Analysis, list[str]]:
    """Compares; writes a fitted controller to the folder `out`.

    Returns:
        the results, and sentences on where the choices come from.

    Raises:
        InputError: something that is missing, damaged, or does not go together; before any long work.
    """
    traces, latency = load_traces(config.traces), LatencyModel.load(config.latency)
    others = {name: load_traces(folder) for name in ("fit", "static_from") if (folder := getattr(config, name))}
    bundles = {f"bundle {folder.name}": load_bundle(folder).policy for folder in config.policies}
    controller = load_controller(config.controller) if config.controller else None
    given: dict[str, Traces | Learned | ExpectedGain] = {**others, **bundles}
    if controller is not None:
        given["controller"] = controller
    for name, other in given.items():
        check_goes_with(traces, name, other)
    with tqdm(desc="preparing", unit="step") as progress:
        depth, size = choose_static(others.get("static_from", traces), latency)
        progress.update()
        if "fit" in others:
            controller = fitted_controller(others["fit"], latency, config)
            progress.update()
    ways = ways_to_decide(traces, (depth, size), controller, bundles)
    return compare(traces, latency, ways), notes(config, depth, size)


def check_goes_with(traces: Traces, name: str, other: Traces | Learned | ExpectedGain) -> None:
    """Raises InputError if other traces, or a policy, are for another beam width, or a policy goes deeper."""
    if isinstance(other, Traces):
        name, width, depth = f"the folder of {name}", other.width, 0
    elif isinstance(other, Learned):
        width, depth = other.made_for.width, other.max_depth
    else:
        width, depth = other.width, other.max_depth
    if width != traces.width:
        raise InputError(f"{name} is for beam width {width}, and the traces were recorded with {traces.width}")
    if depth > traces.depth:
        raise InputError(f"{name} drafts to depth {depth}, and the traces were recorded to {traces.depth} only")


def choose_static(traces: Traces, latency: LatencyModel) -> tuple[int, int]:
    """The best fixed depth and size over all tasks together."""
    outcomes = outcomes_of(traces.generations, latency, SIZES)
    depth, step, _ = best_static(outcomes)
    return depth, SIZES[step]


def fitted_controller(traces: Traces, latency: LatencyModel, config: AnalysisConfig) -> ExpectedGain:
    """A controller for these traces, which it also saves."""
    controller, found = fit(traces.generations, outcomes_of(traces.generations, latency, SIZES), latency)
    facts = {"positions": traces.positions, "tokens_per_second": found.throughput, "setup": latency.setup}
    save_controller(controller, config.out / CONTROLLER_FILE, facts)
    return controller


def notes(config: AnalysisConfig, depth: int, size: int) -> list[str]:
    """Sentences on where the choices come from."""
    chosen = "other traces" if config.static_from else "these traces, all tasks together"
    found = [
        f"Best static: depth {depth}, size {size}, chosen on {chosen}.",
        f"EAGLE-3 is its default, depth {EAGLE3[0]}, size {EAGLE3[1]}.",
        "Hindsight has the most tokens per second in every cycle by itself; the optimum is exact for whole answers.",
        "Tokens per second leave prefill out, and the time that a policy takes to decide.",
        "Of gap: the share of what the optimum has more tokens per second than the best static decision.",
    ]
    if config.fit is not None:
        same = config.fit.resolve() == config.traces.resolve()
        found.append(f"The controller was fitted to {'these' if same else 'other'} traces.")
    return found


# --- ways to decide ---


def ways_to_decide(
    traces: Traces, static: tuple[int, int], controller: ExpectedGain | None, bundles: dict[str, Learned]
) -> dict[str, Decide]:
    """All that are compared, by name."""
    ways = {"plain": fixed(PLAIN, 0)}
    if traces.depth >= EAGLE3[0]:
        ways["EAGLE-3"] = fixed(*EAGLE3)
    ways[STATIC] = fixed(*static)
    if controller is not None:
        ways["controller"] = controlled(controller)
    ways |= {name: learned(policy) for name, policy in bundles.items()}
    return ways | {"hindsight": by_schedule(hindsight), OPTIMUM: by_schedule(optimum)}


def fixed(depth: int, size: int) -> Decide:
    """The same in every cycle."""
    return lambda generations, outcomes: scheduled(
        generations, outcomes, np.full(outcomes.positions, depth), np.full(outcomes.positions, size)
    )


def controlled(controller: ExpectedGain) -> Decide:
    """As the controller decides."""
    if not controller.drafts:
        return fixed(PLAIN, 0)

    def decide(generations: Sequence[RecordedGeneration], outcomes: Outcomes) -> Iterable[Cycles]:
        depths, steps = decide_everywhere(controller, outcomes)
        return scheduled(generations, outcomes, depths, np.array(controller.sizes)[steps])

    return decide


def learned(policy: Learned) -> Decide:
    """As learned policies decide, everywhere at once: what they see does not depend on the cycles before."""

    def decide(generations: Sequence[RecordedGeneration], outcomes: Outcomes) -> Iterable[Cycles]:
        depths = stops(policy, outcomes)
        sizes = np.array(policy.sizes)[chosen_steps(policy, outcomes, depths)]
        return scheduled(generations, outcomes, depths, sizes)

    return decide


def by_schedule(find: Callable[[Outcomes], DraftSchedule]) -> Decide:
    """As a schedule for the whole ladder says."""

    def decide(generations: Sequence[RecordedGeneration], outcomes: Outcomes) -> Iterable[Cycles]:
        schedule = find(outcomes)
        return scheduled(generations, outcomes, schedule.depths, np.array(outcomes.sizes)[schedule.steps])

    return decide


def scheduled(
    generations: Sequence[RecordedGeneration], outcomes: Outcomes, depths: Integers, sizes: Integers
) -> Iterable[Cycles]:
    """The cycles of all generations, if positions decide on depths and sizes (P,); depth `PLAIN` drafts nothing."""
    plain = depths == PLAIN
    depths, sizes = np.where(plain, 0, depths), np.where(plain, 0, sizes)
    blocks = zip(generations, outcomes.starts, outcomes.starts[1:], strict=False)
    return [replay(generation, (depths[first:until], sizes[first:until])) for generation, first, until in blocks]


# --- adding up ---


def compare(traces: Traces, latency: LatencyModel, ways: dict[str, Decide]) -> Analysis:
    """Every way on every task."""
    by_task: dict[str, list[RecordedGeneration]] = {}
    for generation in traces.generations:
        if generation.positions:
            by_task.setdefault(generation.task, []).append(generation)
    results: Analysis = {}
    with tqdm(total=len(by_task) * len(ways), unit="method") as progress:
        for task, generations in by_task.items():
            outcomes, results[task] = outcomes_of(generations, latency, SIZES), {}
            for name, decide in ways.items():
                progress.set_description(f"{task}, {name}")
                results[task][name] = spend(generations, decide(generations, outcomes), latency)
                progress.update()
    return results


def spend(generations: Sequence[RecordedGeneration], cycles: Iterable[Cycles], latency: LatencyModel) -> ReplayedTotal:
    """Adds up the cycles of generations, each from its first position on."""
    rows = [
        (generation.prompt_length + found.positions, found.depths, found.sizes, found.gains)
        for generation, found in zip(generations, cycles, strict=True)
    ]
    lengths, depths, sizes, gains = (np.concatenate(column) for column in zip(*rows, strict=True))
    drafted, plain = sizes > 0, latency.plain(lengths[sizes == 0]).sum()
    read = sum(catching_up(latency.begin, length - length[0], size == 0, length) for length, _, size, _ in rows)
    length, depth, size, gain = (column[drafted] for column in (lengths, depths, sizes, gains))
    begin = latency.begin(gain, length)
    parts = {
        "begin": begin.sum() + read,
        "expand": (latency.draft(depth, length, gain) - begin).sum(),
        "verify": latency.verify(size, length).sum(),
        "rest": latency.other(size, length).sum(),
        "plain": plain,
    }
    seconds = {name: float(value) for name, value in parts.items()}
    return ReplayedTotal(int(gains.sum()), len(gains), seconds, counted(depth), counted(size))


def counted(values: Integers) -> dict[int, int]:
    """How often each value occurs."""
    found: Any = np.unique(values, return_counts=True)
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
