"""`ltd tune --quick`: policies for this machine from its costs and the traces that are shipped, in half a minute.

`ltd tune` records traces, and decodes with everything that could be used to see what is faster. Here only costs are
measured. All else is replayed: the shipped networks are trained on with this machine's costs, and compared on other
answers with the best fixed setting and with plain decoding. What came out best is kept in the user's cache, where
`ltd.load` finds it unless `ltd tune` made something for the same setting.

The policies know the temperatures that the traces are of: of those that are shipped half of the answers are greedy, and
half sampled at temperature 1. The beam width is that of the traces, too.

The traces are of one target and head, in one type on one processor. Elsewhere a near tie may be decided otherwise; the
answers to learn from are then those of the same model all the same, and what is decoded is always the target's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ltd.common.assets import shipped_traces
from ltd.common.lock import only_run
from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import LOOKUP
from ltd.errors import InputError
from ltd.latency.calibration import calibrate
from ltd.latency.cycle_bench import LOOKED_UP, Plan
from ltd.latency.model import LatencyModel
from ltd.loading import load as load_decoder
from ltd.lookup import TEXT_FEATURES, TextScores, default_text_scores
from ltd.policies import Both, Lookup, Policy
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import quick_folder, remove_kept, shipped_bundle
from ltd.policies.rule_file import RULE, write_rule
from ltd.policy_choice import quick_tunes
from ltd.target.device import CPU
from ltd_rl.baselines.both_search import Grid, best_both, total_of_rule
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.traces.compact import CompactTraces, load_compact
from ltd_rl.traces.format import RecordedGeneration, shallow, temperatures_of
from ltd_rl.traces.limits import relative_costs, summary_for, worthwhile
from ltd_rl.traces.observations import decided
from ltd_rl.traces.outcomes import Outcomes, named_width, outcomes_of, plain_total
from ltd_rl.traces.samplings import texts_at
from ltd_rl.traces.splits import ThreeWays, split_three_ways
from ltd_rl.trainers.exact import Epoch, ExactConfig, train_exact
from ltd_rl.tuning.config import setting_here
from ltd_rl.tuning.fixed import method_of

SECONDS = 10.0  # for the costs
LENGTHS, SIZES, GAINS = (64, 384), (0, 1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8)
CONFIG = ExactConfig(learning_rate=4e-3, epochs=16)  # from trained networks on; the small set is seen soon
# Of the rules that `ltd tune` searches, about a fifth.
RULES = Grid((4, 8, 16), (0, 2, 3, 4, 6, 8), (0.3, 0.5, 0.7, 0.9))
PLAIN, SHIPPED, FIXED, LEARNED = "plain decoding", "the shipped policies", "the best fixed setting", "quickly tuned"
LATENCY = "latency.json"
STAGES = 3


@dataclass(frozen=True, slots=True, eq=False)
class QuickTuned:
    """What came out.

    Attributes:
        kept: the policy that is in the cache; None if nothing was faster than plain decoding.
        folder: for that, in the cache; it also holds the costs.
        replayed: tokens per second by names for people, with this machine's costs, on answers that nothing was learned
            or chosen with.
        temperatures: of the shipped answers.
    """

    kept: Policy | None
    folder: Path
    replayed: dict[str, float]
    temperatures: list[float]


def quick_tune(
    target: str | None = None,
    draft: str | None = None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    seconds: float | None = None,
    load: Callable[..., Decoder] = load_decoder,
) -> QuickTuned:
    """Measures costs, trains, compares by replay, and keeps the best for this target, draft and machine.

    Args:
        target, draft, dtype, threads: as for `ltd.load` on the CPU. The target is one whose traces are shipped, and so
            is the head; or the draft is "lookup".
        seconds: about how long to measure costs; None is 10.
        load: stands in for `ltd.load`.

    Raises:
        InputError: there are no traces of this target and head, a setting is out of range, or the cache cannot be
            written; before anything is measured.
    """
    if draft == "none":
        raise InputError('policies steer a draft, so there must be one; name a head, or use the draft "lookup"')
    setting = setting_here(target, draft, dtype, threads, CPU.type)
    if not quick_tunes(setting, CPU):
        raise InputError("there are no shipped traces of this target and head to tune quickly with; use ltd tune")
    seconds = SECONDS if seconds is None else seconds
    Plan(seconds=seconds)  # raises if it is out of range
    folder = quick_folder(setting)
    with only_run(folder):
        announce(1, f"costs on this machine, {seconds:.0f} s; leave it alone meanwhile")
        traces = load_compact(shipped_traces())
        width, temperatures = traces.generations[0].width, temperatures_of(traces.generations)
        decoder = load(target, draft, policy="static", dtype=dtype, device=CPU, threads=threads)
        plan = Plan(LENGTHS, SIZES, GAINS, traces.generations[0].depth, seconds, width=width)
        latency = calibrate(decoder, plan, target=target)
        if warning := latency.warning():
            print(f"warning: {warning}", file=sys.stderr)
        factors = setting.sampling_sha256 if any(temperatures) else None  # nothing is learned of them from greedy text
        learned_for = replace(setting, width=width, sampling_sha256=factors)
        lessons = lessons_from(traces, latency, learned_for, decoder.text_scores or default_text_scores())
        count, texts = lessons.training.positions, texts_at(temperatures)
        announce(2, f"training on {count} positions of shipped traces, {texts}, and comparing")
        policy = train(lessons)
        rule = best_rule(lessons)
        replayed = compare(lessons, policy, rule)
        kept = fastest(replayed, rule, policy, with_shipped=shipped_bundle(setting, CPU) is not None)
        announce(3, f"writing {'nothing' if kept is None else kept} to {folder}")
        keep(lessons, kept, replayed, folder)
    return QuickTuned(kept, folder, replayed, temperatures)


def announce(stage: int, what: str) -> None:
    """Says which stage begins."""
    print(f"[{stage}/{STAGES}] {what}", file=sys.stderr, flush=True)


# --- replays ---


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What is learned from, and what is learned for.

    Attributes:
        setting: what for. latency: the machine's.
        split: of the traces, to train, to choose the epoch, to compare.
        start: the shipped policies of the traces' own head, if there are some.
        text: how likely looked-up tokens are, to policies that learn. rule_text: to rules, which keep no scores.
        training, validation: outcomes.
    """

    setting: Setting
    latency: LatencyModel
    split: ThreeWays
    start: Learned | None
    text: TextScores
    rule_text: TextScores
    training: Outcomes
    validation: Outcomes

    def outcomes(self, policy: Learned) -> Outcomes:
        """What a policy's decisions come to on the answers to compare on."""
        depth = min(policy.depth_limit, self.training.depth)
        text = policy.text_scores or self.text
        return outcomes_of(self.split.comparison, self.latency, policy.sizes, depth, text, policy.max_text)


def with_width(policy: Learned, width: int) -> Learned:
    """The same networks for another beam width; they see as many scores of one as of another."""
    return replace(policy, made_for=replace(policy.made_for, width=width))


def lessons_from(traces: CompactTraces, latency: LatencyModel, setting: Setting, rule_text: TextScores) -> Lessons:
    """The lessons for a setting on a machine."""
    generations, text = traces.generations, rule_text
    shipped = shipped_bundle(replace(traces.made_for, hardware=setting.hardware), CPU)
    start = None if shipped is None else with_width(shipped.policy, setting.width)
    if setting.head_sha256 == LOOKUP:
        generations = [shallow(generation, -1) for generation in generations]
    elif start is not None:
        text = start.text_scores or rule_text
    split = split_three_ways(generations)
    sizes, depth = worthwhile(split.known, latency, text)
    ladder = [size for size in sizes if size <= traces.nodes]
    training, validation = (
        outcomes_of(side, latency, ladder, depth, text, LOOKED_UP) for side in (split.training, split.validation)
    )
    return Lessons(setting, latency, split, start, text, rule_text, training, validation)


def train(lessons: Lessons) -> Learned:
    """Goes on with the shipped networks, or from random ones where there are none."""
    summary = summary_for(lessons.training.sizes, TEXT_FEATURES)
    with tqdm(total=CONFIG.epochs, unit="epoch", desc="training") as progress:

        def told(epoch: Epoch) -> None:
            progress.set_postfix_str(f"{epoch.validation:.1f} tokens/s held out", refresh=False)
            progress.update()

        layouts = (summary, summary)
        result = train_exact(
            lessons.training, lessons.validation, layouts, CONFIG, lessons.setting, told, lessons.start
        )
    return replace(result.policy, costs=relative_costs(lessons.training, lessons.latency))


def best_rule(lessons: Lessons) -> Both | Lookup:
    """The best fixed setting on a part of the known answers, as a search over all takes longer than all else."""
    if lessons.training.depth < 0:
        return best_lookup(lessons.split.validation, lessons.latency, lessons.rule_text)[0]
    rule = best_both(every_other(lessons.split.known), lessons.latency, lessons.rule_text, RULES)[0]
    return replace(rule, width=named_width(lessons.setting.width))


def every_other(generations: Sequence[RecordedGeneration]) -> list[RecordedGeneration]:
    """Half of the generations at every temperature."""
    groups: dict[float, list[RecordedGeneration]] = {}
    for generation in generations:
        groups.setdefault(generation.sampling.temperature, []).append(generation)
    return [generation for group in groups.values() for generation in group[::2]]


def compare(lessons: Lessons, policy: Learned, rule: Both | Lookup) -> dict[str, float]:
    """Tokens per second by names for people, on answers that nothing was learned or chosen with."""
    outcomes = lessons.outcomes(policy)
    replayed = {PLAIN: plain_total(outcomes).throughput}
    if lessons.start is not None and lessons.training.depth >= 0:
        replayed[SHIPPED] = decided(lessons.start, lessons.outcomes(lessons.start)).throughput
    replayed[FIXED] = total_of_rule(rule, lessons.split.comparison, lessons.latency, lessons.rule_text).throughput
    replayed[LEARNED] = decided(policy, outcomes).throughput
    return replayed


def fastest(
    replayed: dict[str, float], rule: Both | Lookup, policy: Learned, with_shipped: bool
) -> Learned | Both | Lookup | None:
    """What is to be kept; None where plain decoding is the fastest, or what is used where nothing is kept.

    Args:
        with_shipped: whether that are the shipped policies.
    """
    choices: dict[str, Learned | Both | Lookup | None] = {PLAIN: None, FIXED: rule, LEARNED: policy}
    if with_shipped:
        choices[SHIPPED] = None
    return choices[max((name for name in choices if name in replayed), key=replayed.__getitem__)]


def keep(lessons: Lessons, kept: Learned | Both | Lookup | None, replayed: dict[str, float], folder: Path) -> None:
    """Writes it into the folder, in the place of what was kept there before."""
    training = {"trainer": "exact", **CONFIG.to_dict(), "positions": lessons.training.positions, "traces": "shipped"}
    validation = {"replayed_tokens_per_second": replayed}
    try:
        lessons.latency.save(folder / LATENCY)  # before anything is lost to a full disk
        remove_kept(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; name a place that is writable") from error
    if isinstance(kept, Learned):
        save_bundle(Bundle(kept, CONFIG.reward, training, validation), folder)
    elif kept is not None:
        facts = {"made_for": asdict(lessons.setting), "training": training, "validation": validation}
        write_rule(method_of(kept), facts, folder / RULE)
