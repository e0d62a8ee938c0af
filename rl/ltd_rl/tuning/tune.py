"""`ltd tune`: from nothing to policies that are used by default here, in five stages.

Every stage keeps its result in a work folder, and a stage whose result is there is not run again: costs
(`latency.json`), `traces`, the policies (`bundle`, with `training.json`), a comparison in real decoding
(`validation-…`), and last, if it is surely faster than what is used without, the bundle or a rule in the user's cache,
where `ltd.load` finds it. Questions are split three ways, within each task: to train, to choose the epoch, to compare.

One policy is made for greedy and for sampled text: half of the answers are recorded greedily and half at temperature 1,
unless something else is asked for, and everything is compared at each temperature. What is kept is the best of all
temperatures together.

Candidates have two sources, the draft and the text itself; how likely the text's are is fitted to the same traces, for
greedy and for sampled text apart. With the draft "lookup" there is the text alone: no static tree, and no depth to
learn.
"""

from __future__ import annotations

from collections.abc import Callable

from ltd.common.files import cache_folder
from ltd.common.lock import only_run
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.loading import load as load_decoder
from ltd.policies.learned.store import bundle_folder
from ltd_rl.traces.limits import worthwhile
from ltd_rl.traces.outcomes import outcomes_of
from ltd_rl.traces.samplings import GREEDY, name_of, texts_at
from ltd_rl.traces.sources import obtain_generations, own_latency
from ltd_rl.traces.splits import ThreeWays, split_three_ways
from ltd_rl.traces.text_fit import fit_text_scores
from ltd_rl.tuning.comparison import compare
from ltd_rl.tuning.config import TuneConfig, check_questions
from ltd_rl.tuning.fixed import best_rule, best_setting
from ltd_rl.tuning.keeping import Tuned, keep
from ltd_rl.tuning.training import train
from ltd_rl.tuning.work import Work, announce, expected, prepare


def tune(config: TuneConfig, load: Callable[..., Decoder] = load_decoder) -> Tuned:
    """Runs what is missing.

    Args:
        config: what and how.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong; before any long work, as far as it is known then.
    """
    check_questions(config)
    setting = expected(config)
    mark = mark_of(config.temperatures, setting.width)
    folder = config.out or cache_folder() / "tuning" / f"{bundle_folder(setting).name}{mark}"
    with only_run(folder):
        work = prepare(config, setting, folder, load)
        latency = measure_costs(work)
        split = record_traces(work)
        text = fit_text_scores(split.known, LOOKED_UP)
        sizes, depth = worthwhile(split.known, latency, text)
        training, validation = (
            outcomes_of(side, latency, sizes, depth, text, LOOKED_UP) for side in (split.training, split.validation)
        )
        static = best_setting(outcomes_of(split.known, latency, sizes, depth)) if work.drafts else None
        rule = best_rule(work, split.known, latency)
        policy = train(work, latency, static, training, validation)
        results, names = compare(work, split.comparison, static, rule)
        return keep(work, policy, static, rule, results, names)


def mark_of(temperatures: tuple[float, ...], width: int) -> str:
    """What the name of a work folder in the cache ends with: its traces are of these temperatures and beam width."""
    heat = "" if temperatures == GREEDY else "-at-" + "-".join(map(name_of, temperatures))
    return heat if width == DEFAULT_WIDTH else f"{heat}-width-{width}"


def measure_costs(work: Work) -> LatencyModel:
    """The latency model of the work folder."""
    announce(1, f"costs on this machine: {work.config.seconds:.0f} s, if unknown; leave it alone meanwhile")
    return own_latency(work.source, work.load)


def record_traces(work: Work) -> ThreeWays:
    """Traces of all questions, split."""
    announce(2, f"traces of the questions, {texts_at(work.config.temperatures)}, as far as they are missing")
    return split_three_ways(obtain_generations(work.source, work.load))
