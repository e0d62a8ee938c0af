"""`ltd tune`: from nothing to policies that are used by default here, in five stages.

Every stage keeps its result in a work folder, and a stage whose result is there is not run again: costs
(`latency.json`), `traces`, the policies (`bundle`, with `training.json`), a comparison in real decoding
(`validation-…`), and last, if it is surely faster than what is used without, the bundle or a rule in the user's cache,
where `ltd.load` finds it. Questions are split three ways, within each task: to train, to choose the epoch, to compare.

Candidates have two sources, the draft and the text itself; how likely the text's are is fitted to the same traces. With
the draft "lookup" there is the text alone: no static tree, and no depth to learn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltd.common.files import cache_folder, file_hash, write_text
from ltd.common.journal import Record
from ltd.common.json_files import read_json
from ltd.common.lock import only_run
from ltd.common.threads import set_threads
from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import LOOKUP
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.questions import load_questions
from ltd.latency.cycle_bench import LOOKED_UP
from ltd.latency.model import LatencyModel
from ltd.loading import load as load_decoder
from ltd.lookup import TEXT_FEATURES, default_text_scores
from ltd.policies import Both, Lookup, Policy
from ltd.policies.grid import write_grid
from ltd.policies.learned.bundle import BEST_STATIC, FACTS, Bundle, remove_bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import bundle_folder, shipped_bundle
from ltd.policies.rule_file import RULE, write_rule
from ltd.policies.static import Static
from ltd.policy_choice import expected_setting
from ltd.target.device import resolve_device, resolve_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd_rl.baselines.both_search import best_both
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.comparison import validation_of, winner
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.human_eval import write_human_eval
from ltd_rl.traces.limits import relative_costs, summary_for, worthwhile
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from ltd_rl.traces.sources import Source, obtain_generations, own_latency
from ltd_rl.traces.splits import ThreeWays, split_three_ways
from ltd_rl.traces.text_fit import fit_text_scores
from ltd_rl.trainers.exact import Epoch, ExactConfig, train_exact
from ltd_rl.trainers.iterate import Schedule, iterate
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.tune_config import TuneConfig, check_questions

STAGES = 5
BUNDLE, TRAINING, QUESTIONS, HELD_OUT = "bundle", "training.json", "questions", "held-out"
DEFAULT, SHIPPED, LEARNED = "default", "shipped", "learned"  # names for people
FEW = 10  # questions of a task


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What came out.

    Attributes:
        kept: the policy whose bundle or rule is in the cache; None if nothing was surely faster than what is used
            without one.
        folder: for that, in the cache; it also holds the best static tree of the draft, or without one the best way to
            look tokens up, for the method `grid`.
        names: method names of `ltd eval`, by what they are for people.
        incumbent: the one that is used without a bundle, as such a name for people.
        results: of these methods, in real decoding of questions that nothing was learned or chosen with.
    """

    kept: Policy | None
    folder: Path
    names: dict[str, str]
    incumbent: str
    results: Record

    @property
    def learned(self) -> bool:
        """Whether the learned policies were kept."""
        return isinstance(self.kept, Learned) and self.kept.size_network is not None


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What the stages share: settings, models, and where traces and latencies come from."""

    config: TuneConfig
    decoder: Decoder
    setting: Setting
    source: Source

    @property
    def folder(self) -> Path:
        """For the results."""
        return self.source.folder

    @property
    def default(self) -> Policy:
        """What would be used here without learned policies: the decoder was loaded with it."""
        assert self.decoder.policy is not None
        return self.decoder.policy

    @property
    def drafts(self) -> bool:
        """Whether there is a draft, and not only tokens that are looked up."""
        return self.decoder.draft is not None

    @property
    def shipped(self) -> Bundle | None:
        """The shipped bundle that would be used here without a tuned one, if there is one."""
        return shipped_bundle(self.setting, self.decoder.target.device)

    def load(self, *_: Any, **__: Any) -> Decoder:
        """Stands in for `ltd.load` in all stages, which share one decoder."""
        return self.decoder


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
    folder = config.out or cache_folder() / "tuning" / bundle_folder(setting).name
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


def expected(config: TuneConfig) -> Setting:
    """What the policies will be made for, known without loading weights.

    Raises:
        InputError: there is no such target or head, or none that a bundle can be known to belong to.
    """
    set_threads(config.threads)  # a setting has the number of threads
    device = resolve_device(config.device)
    here = expected_setting(config.target, config.draft, resolve_dtype(config.dtype, device), device)
    assert here is not None, "TuneConfig takes no draft none"
    if here.head_sha256 is None:
        raise InputError("the draft's weights have no hash to know them by; convert the head to ltd's own layout first")
    if here.head_sha256 == LOOKUP and config.trainer == "ppo":
        raise InputError("PPO needs a draft to steer, and there is none; use the trainer exact, or name a head")
    return replace(here, target=Path(config.target or DEFAULT_TARGET).name)


def prepare(config: TuneConfig, setting: Setting, folder: Path, load: Callable[..., Decoder]) -> Work:
    """Loads the models, and writes the questions where none are given."""
    decoder = load(
        config.target, config.draft, policy="static", device=config.device, dtype=config.dtype, threads=config.threads
    )
    data_dir = config.data_dir
    if data_dir is None:
        data_dir = folder / QUESTIONS
        write_human_eval(data_dir)
    source = Source(
        folder=folder,
        data_dir=data_dir,
        tasks=config.tasks,
        target=config.target,
        draft=config.draft,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        limit=config.limit,
        max_new_tokens=config.max_new_tokens,
        seconds=config.seconds,
    )
    return Work(config, decoder, setting, source)


def announce(stage: int, what: str) -> None:
    """Says which stage begins."""
    print(f"[{stage}/{STAGES}] {what}", file=sys.stderr, flush=True)


def measure_costs(work: Work) -> LatencyModel:
    """The latency model of the work folder."""
    announce(1, f"costs on this machine: {work.config.seconds:.0f} s, if unknown; leave it alone meanwhile")
    return own_latency(work.source, work.load)


def record_traces(work: Work) -> ThreeWays:
    """Traces of all questions, split."""
    announce(2, "traces of the questions, as far as they are missing")
    return split_three_ways(obtain_generations(work.source, work.load))


def train(
    work: Work, latency: LatencyModel, static: tuple[int, int] | None, training: Outcomes, validation: Outcomes
) -> Learned:
    """Trains the policies and writes them to the work folder."""
    config = work.config
    depths = f", depths up to {training.depth}" * work.drafts
    announce(
        3,
        f"training by {config.trainer} for the reward {config.reward}: sizes up to {training.sizes[-1]}{depths}, "
        f"{training.positions} positions, {validation.positions} to choose the epoch",
    )
    trainer = train_by_ppo if config.trainer == "ppo" else train_exactly
    policy, course = trainer(work, training, validation)
    policy = replace(policy, costs=relative_costs(training, latency))
    settings = {"trainer": config.trainer, "tasks": list(config.tasks), "max_new_tokens": config.max_new_tokens,
                "positions": training.positions, **({} if static is None else {BEST_STATIC: static}),
                **course}  # fmt: skip
    write_text(work.folder / TRAINING, json.dumps(settings, indent=1) + "\n")
    save_bundle(Bundle(policy, config.reward, settings), work.folder / BUNDLE)
    return policy


def train_exactly(work: Work, training: Outcomes, validation: Outcomes) -> tuple[Learned, Record]:
    """By the exact trainer; and its settings and course."""
    config = ExactConfig(reward=work.config.reward)
    summary = summary_for(training.sizes, TEXT_FEATURES)
    with tqdm(total=config.epochs, unit="epoch", desc="training") as progress:

        def told(epoch: Epoch) -> None:
            progress.set_postfix_str(f"{epoch.validation:.1f} tokens/s held out", refresh=False)
            progress.update()

        result = train_exact(training, validation, (summary, summary), config, work.setting, told)
    return result.policy, {**config.to_dict(), "epochs": [asdict(epoch) for epoch in result.epochs]}


def train_by_ppo(work: Work, training: Outcomes, validation: Outcomes) -> tuple[Learned, Record]:
    """By PPO in the paper's schedule, on our own observation; and its settings."""
    depth, size = PPOConfig.paper("depth"), PPOConfig.paper("size")
    schedule = Schedule(
        training, validation, work.setting, depth, size, observation="summary", reward=work.config.reward
    )
    return iterate(schedule, work.folder / "ppo"), {"depth": asdict(depth), "size": asdict(size)}


def best_setting(outcomes: Outcomes) -> tuple[int, int]:
    """Depth and size of the best static setting."""
    depth, step, _ = best_static(outcomes)
    return depth, outcomes.sizes[step]


def best_rule(work: Work, known: list[RecordedGeneration], latency: LatencyModel) -> Both | Lookup:
    """The best policy without networks: of both sources, or of the text alone where there is no draft.

    A rule keeps no scores of its own, so it is searched by those that the decoder has.
    """
    scores = work.decoder.text_scores or default_text_scores()
    return best_both(known, latency, scores)[0] if work.drafts else best_lookup(known, latency, scores)[0]


def compare(
    work: Work, held_out: list[RecordedGeneration], static: tuple[int, int] | None, rule: Both | Lookup
) -> tuple[Record, dict[str, str]]:
    """Decodes held-out questions by all methods in turns: the results of `ltd eval`, and names for people."""
    shipped = work.shipped
    names = {
        "plain decoding": BASELINE,
        DEFAULT: method_of(work.default),
        **static_names(static),
        "the best of both" if work.drafts else "the best lookup": method_of(rule),
        **({} if shipped is None else {SHIPPED: f"bundle:{shipped.folder}"}),
        LEARNED: f"bundle:{work.folder / BUNDLE}",
    }
    methods = tuple(dict.fromkeys(names.values()))
    data_dir = work.folder / HELD_OUT
    count = write_held_out(work, held_out, data_dir)
    announce(4, f"decoding {count} other questions in {len(methods)} ways, in turns")
    if count < FEW * len(work.config.tasks):
        print(f"warning: fewer than {FEW} questions of a task leave wide intervals, so little is kept", file=sys.stderr)
    mark = str(file_hash(work.folder / BUNDLE / FACTS))[:8]  # other policies, another comparison
    config = EvalConfig(
        data_dir=data_dir,
        out=work.folder / f"validation-{mark}",
        tasks=work.config.tasks,
        max_new_tokens=work.config.max_new_tokens,
        target=work.config.target,
        draft=work.config.draft,
        device=work.config.device,
        dtype=work.config.dtype,
        threads=work.config.threads,
        methods=methods,
    )
    return evaluate(config, work.load), names


def static_names(static: tuple[int, int] | None) -> dict[str, str]:
    """The static trees of a draft that are compared, by names for people: EAGLE-3's, and the best here."""
    if static is None:
        return {}
    best = f"best static ({static[0]}, {static[1]})"
    return {"EAGLE-3's static (8, 60)": "eagle3", best: method_of(Static(*static))}


def write_held_out(work: Work, held_out: list[RecordedGeneration], data_dir: Path) -> int:
    """Writes the questions of held-out generations as a data folder of their own; how many there are."""
    chosen = {(generation.task, generation.question_id) for generation in held_out}
    assert work.source.data_dir is not None
    questions = load_questions(work.source.data_dir, work.config.tasks, work.config.limit)
    each = work.config.questions // len(work.config.tasks)
    count = 0
    for task in work.config.tasks:
        kept = [q for q in questions if q.task == task and (task, q.question_id) in chosen][:each]
        lines = [json.dumps({"question_id": q.question_id, "turns": list(q.turns)}) for q in kept]
        (data_dir / task).mkdir(parents=True, exist_ok=True)
        write_text(data_dir / task / "question.jsonl", "\n".join(lines) + "\n")
        count += len(kept)
    return count


def method_of(policy: Policy) -> str:
    """The method of a policy that a name says all of."""
    if isinstance(policy, Both):
        return f"both:depth={policy.depth}:size={policy.size}:text={policy.text}:alone={policy.alone}"
    if isinstance(policy, Lookup):
        return f"lookup:size={policy.size}:least={policy.least}"
    assert isinstance(policy, Static)
    return f"static:{policy.depth}:{policy.size}"


def keep(
    work: Work,
    policy: Learned,
    static: tuple[int, int] | None,
    rule: Both | Lookup,
    results: Record,
    names: dict[str, str],
) -> Tuned:
    """Writes the winner into the cache, unless that is what is used without; see `ltd_rl.comparison.winner`.

    The result of an earlier tuning is replaced, or taken away if nothing is kept.
    """
    folder = bundle_folder(work.setting)
    trees = [] if static is None else [Static(*static)]
    fixed: dict[str, Policy] = {method_of(each): each for each in (rule, *trees, work.default)}
    incumbent = SHIPPED if SHIPPED in names else DEFAULT
    best = winner(results, [names[LEARNED], *fixed], names[incumbent])
    kept = None if best == names[incumbent] else {names[LEARNED]: policy, **fixed}[best]
    what = "nothing" if kept is None else "the learned policies" if kept is policy else "a fixed setting"
    announce(5, f"writing {what} to {folder}")
    settings = read_json(work.folder / TRAINING, dict[str, Any], str(work.folder / TRAINING))
    searched = {"made_for": asdict(work.setting), "tasks": list(work.config.tasks)}
    write_grid(rule if isinstance(rule, Lookup) else trees[0], searched, folder)
    validation = validation_of(results, names, names[LEARNED])
    remove_kept(folder)
    if isinstance(kept, Static):
        kept = constant(policy, kept.depth, kept.size)
    if isinstance(kept, Learned):
        save_bundle(Bundle(kept, work.config.reward, settings, validation), folder)
    elif kept is not None:
        facts = {"made_for": asdict(work.setting), "training": settings, "validation": validation}
        write_rule(method_of(kept), facts, folder / RULE)
    return Tuned(kept, folder, names, incumbent, results)


def remove_kept(folder: Path) -> None:
    """Takes away what an earlier tuning kept; raises InputError if that cannot be done."""
    remove_bundle(folder)
    try:
        (folder / RULE).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {folder / RULE}: {error.strerror}") from error


def constant(policy: Learned, depth: int, size: int) -> Learned:
    """A static tree as a policy, which may not lose either, where its size is among those with known costs."""
    costs = policy.costs
    if costs is not None:
        step = policy.sizes.index(size) if size in policy.sizes else None
        costs = None if step is None else replace(costs, verify=(costs.verify[step],), lookup=0.0)
    return Learned(policy.made_for, depth, (size,), costs=costs)
