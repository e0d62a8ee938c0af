"""What ways to decide come to on recorded generations, from plain decoding up to the exact optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ltd.errors import InputError
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Learned
from ltd.policies.base import text_limit
from ltd.policies.controller import ExpectedGain
from ltd.policies.controller_file import load_controller
from ltd.policies.cost_aware import CostAware
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.rule_file import load_rule
from ltd.tree import NOT_ASKED
from ltd_rl.analysis.choices import EAGLE3, FixedChoices, choose_fixed, fitted_controller, yardstick
from ltd_rl.analysis.knowable import check_questions, knowable_ways
from ltd_rl.analysis.totals import Analysis, compare, rates_of
from ltd_rl.analysis.ways import ways_to_decide
from ltd_rl.traces.format import Traces, load_traces, temperatures_of
from ltd_rl.traces.samplings import texts_at
from ltd_rl.traces.text_fit import fit_text_scores

Given = Learned | ExpectedGain | CostAware


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
        rules: files of rules that weigh chances against costs, as `ltd train-baseline rules` writes them.
        knowable: whether to learn what large predictors reach.
    """

    traces: Path
    latency: Path
    out: Path
    policies: tuple[Path, ...] = ()
    controller: Path | None = None
    fit: Path | None = None
    static_from: Path | None = None
    text: bool | None = None
    rules: tuple[Path, ...] = ()
    knowable: bool = False

    def __post_init__(self) -> None:
        if self.controller is not None and self.fit is not None:
            raise InputError("give either a controller or traces to fit one to, not both")


def analyse(config: AnalysisConfig) -> tuple[Analysis, list[str]]:
    """Compares; writes a fitted controller to the folder `out`.

    Returns:
        the results, and sentences on where the choices come from.

    Raises:
        InputError: something that is missing, damaged, or does not go together; before any long work.
    """
    traces, latency = load_traces(config.traces), LatencyModel.load(config.latency)
    others = {name: load_traces(folder) for name in ("fit", "static_from") if (folder := getattr(config, name))}
    bundles = {f"bundle {name}": load_bundle(folder).policy for name, folder in told_apart(config.policies).items()}
    controller = load_controller(config.controller) if config.controller else None
    rules = {f"rule {name}": load_weighing(file) for name, file in told_apart(config.rules).items()}
    given: dict[str, Given] = {**bundles, **rules}
    if controller is not None:
        given["controller"] = controller
    looks_up = with_text(config, traces, given)
    for name, other in {**others, **given}.items():
        check_goes_with(traces, name, other)
    if "fit" in others and traces.depth < 0:
        raise InputError("a controller weighs a draft, and these traces are without one; leave fit out")
    kept = [generation for generation in traces.generations if generation.positions]
    if config.knowable:
        check_questions([(generation.task, generation.question_id) for generation in kept])
    with tqdm(desc="preparing", unit="step") as progress:
        text = None
        if looks_up:
            known = None if controller is None else controller.text_scores
            text = known or fit_text_scores(others.get("fit", others.get("static_from", traces)).generations, LOOKED_UP)
            progress.update()
        choices = choose_fixed(others.get("static_from", traces), latency, text)
        progress.update()
        if "fit" in others:
            controller = fitted_controller(others["fit"], latency, text, config.out)
            progress.update()
    bounds, said = knowable_ways(kept, latency, text) if config.knowable else ({}, [])
    ways = ways_to_decide(traces, choices, controller, bundles, text, rules, bounds)
    found = compare(traces, latency, ways)
    return found, [*notes(config, traces, choices, text, yardstick(rates_of(found))), *said]


def told_apart(paths: Sequence[Path]) -> dict[str, Path]:
    """Files and folders by names for people: their own, with as many folders above them as it takes to differ.

    Raises:
        InputError: one comes twice.
    """
    places = [path.absolute() for path in paths]
    if again := next((path for path in paths if places.count(path.absolute()) > 1), None):
        raise InputError(f"{again} is named twice; name each once")
    every = [(*place.parts[:-1], place.stem if place.is_file() else place.name) for place in places]
    names: list[str] = []
    for count in range(1, 2 + max(map(len, every), default=0)):
        names = ["/".join(parts[-count:]) for parts in every]
        if len(set(names)) == len(names):
            break
    else:  # two files that differ in their suffix alone
        names = [str(path) for path in paths]
    return dict(zip(names, paths, strict=True))


def load_weighing(file: Path) -> CostAware:
    """The rule in a file; raises InputError if there is none, or it does not decide by scores and costs alone."""
    rule = load_rule(file)
    if not isinstance(rule, CostAware):
        raise InputError(
            f"the rule {file} is {rule}, which does not decide by the scores in traces and by costs alone; "
            "ltd train-baseline rules says what it comes to"
        )
    return rule


def with_text(config: AnalysisConfig, traces: Traces, given: dict[str, Given]) -> bool:
    """Whether candidates may come from the text as well.

    Raises:
        InputError: that is not wanted, but a given policy looks tokens up, or there is nothing else.
    """
    # The rules know the draft alone.
    readers = [name for name, policy in given.items() if not isinstance(policy, CostAware) and text_limit(policy)]
    if config.text is False and readers:
        raise InputError(f"{readers[0]} looks tokens up in the text; leave it out, or compare with text")
    if config.text is False and traces.depth < 0:
        raise InputError("these traces are without a draft, so all candidates are the text's; compare with text")
    if config.text is None:
        return bool(readers) or not given or traces.depth < 0
    return config.text


def check_goes_with(traces: Traces, name: str, other: Traces | Given) -> None:
    """Raises InputError if other traces, or a policy, are for another beam width or draft, or a policy goes deeper."""
    if isinstance(other, Traces):
        name, width, depth = f"the folder of {name}", other.width, min(other.depth, 0)
    elif isinstance(other, Learned):
        width, depth = other.made_for.width, other.max_depth
        if other.max_text and depth == 0:
            depth = NOT_ASKED  # it may be one without a draft
    elif isinstance(other, CostAware):
        width, depth = other.costs.made_for.width, other.max_depth
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


def notes(
    config: AnalysisConfig, traces: Traces, choices: FixedChoices, text: TextScores | None, fixed: str
) -> list[str]:
    """Sentences on where the choices come from; `fixed` is the one that others are compared with."""
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
        f"The traces are of {texts_at(temperatures_of(traces.generations))}.",
        "Tokens per second leave prefill out, and the time that a policy takes to decide.",
        f"Of gap: the share of what the optimum has more tokens per second than the {fixed}, which "
        "x static compares with as well.",
    ]
    if config.fit is not None:
        same = config.fit.resolve() == config.traces.resolve()
        found.append(f"The controller was fitted to {'these' if same else 'other'} traces.")
    return found
