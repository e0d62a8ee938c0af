"""The best fixed decisions on some traces, and a controller fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.lookup import TextScores
from ltd.policies import Both, Lookup
from ltd.policies.controller import ExpectedGain
from ltd.policies.controller_file import save_controller
from ltd_rl.baselines.both_search import best_both
from ltd_rl.baselines.controller_fit import fit
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.traces.format import Traces
from ltd_rl.traces.limits import EVERY_SIZE
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import outcomes_of

SIZES = EVERY_SIZE[1:]  # the ladder of all that choose freely among the head's candidates
EAGLE3 = (8, 60)
STATIC, LOOKUP, BOTH, OPTIMUM = "best static", "best lookup", "best both", "optimum"
CONTROLLER_FILE = "controller.json"


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


def fitted_controller(traces: Traces, latency: LatencyModel, text: TextScores | None, out: Path) -> ExpectedGain:
    """A controller for these traces, which it also saves; `text` as for `choose_fixed`."""
    sizes = SIZES if text is None else EVERY_SIZE
    outcomes = outcomes_of(traces.generations, latency, sizes, text=text, most=LOOKED_UP)
    controller, found = fit(traces.generations, outcomes, latency)
    facts = {"positions": traces.positions, "tokens_per_second": found.throughput, "setup": latency.setup}
    save_controller(controller, out / CONTROLLER_FILE, facts)
    return controller


def yardstick(rates: Sequence[Mapping[str, float]]) -> str:
    """The name of the fastest fixed way to decide, by the tokens per second of every way on each task.

    Mostly it is that of both sources. But that one looks up in every cycle, so where the text never repeats itself the
    best static tree may be faster.
    """
    known = [name for name in (BOTH, STATIC, LOOKUP) if name in rates[0]]
    return max(known, key=lambda name: fmean(task[name] for task in rates))
