"""What ways to decide come to on recorded generations, from plain decoding up to the exact optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Both, Learned, Lookup
from ltd.policies.controller import ExpectedGain
from ltd.policies.controller_file import load_controller, save_controller
from ltd.policies.learned.bundle import load_bundle
from ltd.tree import NOT_ASKED
from ltd_rl.baselines.both_search import best_both, rule_decisions
from ltd_rl.baselines.controller_fit import decide_everywhere, fit
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.traces.format import RecordedGeneration, Traces, load_traces
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.observations import chosen_steps, stops
from ltd_rl.traces.optimum import DraftSchedule, best_static, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, catching_up, outcomes_of
from ltd_rl.traces.replay import Cycles, cycles_of, stages_of
from ltd_rl.traces.text import Ranks, TextProposals, propose_everywhere
from ltd_rl.traces.text_fit import fit_text_scores

SIZES = EVERY_SIZE[1:]  # the ladder of all that choose freely among the head's candidates
EAGLE3 = (8, 60)
PARTS = ("begin", "expand", "lookup", "verify", "rest", "plain")
STATIC, LOOKUP, BOTH, OPTIMUM = "best static", "best lookup", "best both", "optimum"
CONTROLLER_FILE = "controller.json"


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
        static_from: folder of the traces that the best fixed decisions are chosen on; None: `traces` itself.
        text: whether candidates may come from the text as well; None: unless all given policies know the head alone.
    """

    traces: Path
    latency: Path
    out: Path
    policies: tuple[Path, ...] = ()
    controller: Path | None = None
    fit: Path | None = None
    static_from: Path | None = None
    text: bool | None = None

    def __post_init__(self) -> None:
        if self.controller is not None and self.fit is not None:
            raise InputError("give either a controller or traces to fit one to, not both")


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
    given: dict[str, Learned | ExpectedGain] = dict(bundles)
    if controller is not None:
        given["controller"] = controller
    looks_up = with_text(config, traces, given)
    for name, other in {**others, **given}.items():
        check_goes_with(traces, name, other)
    if "fit" in others and traces.depth < 0:
        raise InputError("a controller weighs a draft, and these traces are without one; leave fit out")
    with tqdm(desc="preparing", unit="step") as progress:
        text = None
        if looks_up:
            known = None if controller is None else controller.text_scores
            text = known or fit_text_scores(others.get("fit", others.get("static_from", traces)).generations, LOOKED_UP)
            progress.update()
        choices = choose_fixed(others.get("static_from", traces), latency, text)
        progress.update()
        if "fit" in others:
            controller = fitted_controller(others["fit"], latency, text, config)
            progress.update()
    ways = ways_to_decide(traces, choices, controller, bundles, text)
    return compare(traces, latency, ways), notes(config, choices, text)


def with_text(config: AnalysisConfig, traces: Traces, given: dict[str, Learned | ExpectedGain]) -> bool:
    """Whether candidates may come from the text as well.

    Raises:
        InputError: that is not wanted, but a given policy looks tokens up, or there is nothing else.
    """
    readers = [name for name, policy in given.items() if policy.max_text]
    if config.text is False and readers:
        raise InputError(f"{readers[0]} looks tokens up in the text; leave it out, or compare with text")
    if config.text is False and traces.depth < 0:
        raise InputError("these traces are without a draft, so all candidates are the text's; compare with text")
    if config.text is None:
        return bool(readers) or not given or traces.depth < 0
    return config.text


def check_goes_with(traces: Traces, name: str, other: Traces | Learned | ExpectedGain) -> None:
    """Raises InputError if other traces, or a policy, are for another beam width or draft, or a policy goes deeper."""
    if isinstance(other, Traces):
        name, width, depth = f"the folder of {name}", other.width, min(other.depth, 0)
    elif isinstance(other, Learned):
        width, depth = other.made_for.width, other.max_depth
        if other.max_text and depth == 0:
            depth = NOT_ASKED  # it may be one without a draft
    else:
        width, depth = other.width, other.max_depth
    if width != traces.width:
        raise InputError(f"{name} is for beam width {width}, and the traces were recorded with {traces.width}")
    if isinstance(other, Traces) and depth != min(traces.depth, 0):
        raise InputError(
            f"of the traces and {name} one is without a draft, and the other not; give such as go together"
        )
    if depth > traces.depth:
        known = f"to {traces.depth} only" if traces.depth >= 0 else "without a draft"
        raise InputError(f"{name} drafts to depth {depth}, and the traces were recorded {known}")


@dataclass(frozen=True, slots=True)
class FixedChoices:
    """The best fixed decisions.

    Attributes:
        static: depth and size of the head's trees; None without a head.
        lookup: of the text alone; None where nothing is looked up.
        both: of both sources; None where one of them is missing.
    """

    static: tuple[int, int] | None
    lookup: Lookup | None
    both: Both | None

    @property
    def names(self) -> list[str]:
        """Of those that there are."""
        every = {STATIC: self.static, LOOKUP: self.lookup, BOTH: self.both}
        return [name for name, choice in every.items() if choice is not None]


def choose_fixed(traces: Traces, latency: LatencyModel, text: TextScores | None) -> FixedChoices:
    """The best of each kind over all tasks together.

    Args:
        text: how likely looked-up tokens are; None where nothing is looked up.
    """
    generations, drafted = traces.generations, traces.depth >= 0
    return FixedChoices(
        static=choose_static(traces, latency) if drafted else None,
        lookup=None if text is None else best_lookup(generations, latency, text)[0],
        both=None if text is None or not drafted else best_both(generations, latency, text)[0],
    )


def choose_static(traces: Traces, latency: LatencyModel) -> tuple[int, int]:
    """The best fixed depth and size of the head's trees."""
    outcomes = outcomes_of(traces.generations, latency, SIZES)
    depth, step, _ = best_static(outcomes)
    return depth, SIZES[step]


def fitted_controller(
    traces: Traces, latency: LatencyModel, text: TextScores | None, config: AnalysisConfig
) -> ExpectedGain:
    """A controller for these traces, which it also saves; `text` as for `choose_fixed`."""
    sizes = SIZES if text is None else EVERY_SIZE
    outcomes = outcomes_of(traces.generations, latency, sizes, text=text, most=LOOKED_UP)
    controller, found = fit(traces.generations, outcomes, latency)
    facts = {"positions": traces.positions, "tokens_per_second": found.throughput, "setup": latency.setup}
    save_controller(controller, config.out / CONTROLLER_FILE, facts)
    return controller


def notes(config: AnalysisConfig, choices: FixedChoices, text: TextScores | None) -> list[str]:
    """Sentences on where the choices come from."""
    chosen = f"chosen on {'other traces' if config.static_from else 'these traces, all tasks together'}."
    found = []
    if choices.static is not None:
        depth, size = choices.static
        found.append(f"Best static: depth {depth}, size {size}, {chosen}")
        found.append(f"EAGLE-3 is its default, depth {EAGLE3[0]}, size {EAGLE3[1]}.")
    if choices.lookup is not None:
        found.append(f"Best lookup: the text alone, {choices.lookup}, {chosen}")
    if choices.both is not None:
        found.append(f"Best both: {choices.both}, {chosen}")
    sources = "the head's candidates alone" if text is None else "the candidates of both sources"
    if choices.static is None:
        sources = "the text's candidates"
    found += [
        "Hindsight has the most tokens per second in every cycle by itself; the optimum is exact for whole answers. "
        f"Both know {sources}.",
        "Tokens per second leave prefill out, and the time that a policy takes to decide.",
        f"Of gap: the share of what the optimum has more tokens per second than the {yardstick(choices.names)}, which "
        "x static compares with as well.",
    ]
    if config.fit is not None:
        same = config.fit.resolve() == config.traces.resolve()
        found.append(f"The controller was fitted to {'these' if same else 'other'} traces.")
    return found


def yardstick(names: Iterable[str]) -> str:
    """Of the ways to decide, by name, the best fixed one that all sources go into."""
    known = set(names)
    return next(name for name in (BOTH, STATIC, LOOKUP) if name in known)


# --- ways to decide ---


@dataclass(frozen=True)
class TaskGround:
    """What ways to decide with the same view of the text may see of some generations that all have positions.

    Args:
        generations: the traces. latency: the machine's.
        text: how likely looked-up tokens are; None where nothing is looked up. most: candidates of the text.
    """

    generations: Sequence[RecordedGeneration]
    latency: LatencyModel
    text: TextScores | None
    most: int

    @cached_property
    def outcomes(self) -> Outcomes:
        """With all sizes."""
        sizes = SIZES if self.text is None else EVERY_SIZE
        return outcomes_of(self.generations, self.latency, sizes, text=self.text, most=self.most or LOOKED_UP)

    @cached_property
    def proposals(self) -> list[TextProposals | None]:
        """What the text proposes in each generation."""
        text = self.text
        return [None if text is None else propose_everywhere(each, text, self.most) for each in self.generations]

    @cached_property
    def chances(self) -> Floats:
        """float32 (P, T), of the text's candidates."""
        return np.concatenate([proposed.chances for proposed in self.proposals if proposed is not None])

    @cached_property
    def stages(self) -> list[tuple[Ranks, Integers]]:
        """Of each generation, see `ltd_rl.traces.replay.stages_of`."""
        return [stages_of(*both) for both in zip(self.generations, self.proposals, strict=True)]

    def cycles(self, depths: Integers, sizes: Integers) -> list[Cycles]:
        """Of every generation, if its positions decide so, int64 (P,) each; depth `NOT_ASKED` does not ask the head."""
        ends = np.cumsum([generation.positions for generation in self.generations])[:-1]
        parts = zip(self.stages, np.split(depths, ends), np.split(sizes, ends), strict=True)
        return [cycles_of(stages, depth, size) for stages, depth, size in parts]


Decide = Callable[[TaskGround], tuple[Integers, Integers]]
"""Depths and sizes at all positions, int64 (P,) each."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to decide.

    Attributes:
        decide: what it decides. text, most: which text it looks at, as in `TaskGround`; none if not given.
    """

    decide: Decide
    text: TextScores | None = None
    most: int = 0


def ways_to_decide(
    traces: Traces,
    choices: FixedChoices,
    controller: ExpectedGain | None,
    bundles: dict[str, Learned],
    text: TextScores | None,
) -> dict[str, Way]:
    """All that are compared, by name; `text` as for `choose_fixed`."""
    ways = {"plain": Way(fixed(NOT_ASKED, 0))}
    if traces.depth >= EAGLE3[0]:
        ways["EAGLE-3"] = Way(fixed(*EAGLE3))
    if choices.static is not None:
        ways[STATIC] = Way(fixed(*choices.static))
    for name, rule in ((LOOKUP, choices.lookup), (BOTH, choices.both)):
        if rule is not None:
            ways[name] = Way(ruled(rule), text, rule.max_text)
    if controller is not None:
        ways["controller"] = Way(controlled(controller), controller.text_scores, controller.max_text)
    for name, policy in bundles.items():
        seen = policy.text_scores or text if policy.max_text else None
        ways[name] = Way(learned(policy), seen, policy.max_text)
    most = 0 if text is None else LOOKED_UP
    return ways | {
        name: Way(by_schedule(find), text, most) for name, find in (("hindsight", hindsight), (OPTIMUM, optimum))
    }


def fixed(depth: int, size: int) -> Decide:
    """The same in every cycle."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        count = sum(generation.positions for generation in ground.generations)
        return np.full(count, depth), np.full(count, size)

    return decide


def ruled(rule: Lookup | Both) -> Decide:
    """As a rule that looks tokens up."""
    return lambda ground: rule_decisions(rule, ground.chances)


def controlled(controller: ExpectedGain) -> Decide:
    """As the controller decides."""
    if not controller.drafts:
        return fixed(NOT_ASKED, 0)

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        depths, steps = decide_everywhere(controller, ground.outcomes, ground.generations)
        return depths, np.array(controller.sizes)[steps]

    return decide


def learned(policy: Learned) -> Decide:
    """As learned policies decide, everywhere at once: what they see does not depend on the cycles before."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        depths = stops(policy, ground.outcomes)
        return depths, np.array(policy.sizes)[chosen_steps(policy, ground.outcomes, depths)]

    return decide


def by_schedule(find: Callable[[Outcomes], DraftSchedule]) -> Decide:
    """As a schedule for the whole ladder says."""

    def decide(ground: TaskGround) -> tuple[Integers, Integers]:
        schedule = find(ground.outcomes)
        return schedule.depths, np.array(ground.outcomes.sizes)[schedule.steps]

    return decide


# --- adding up ---


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
