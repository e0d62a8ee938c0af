"""`ltd tune`: from nothing to policies that are used by default here, in five stages.

Every stage keeps its result in a work folder, and a stage whose result is there is not run again: costs
(`latency.json`), `traces`, the policies (`bundle`, with `training.json`), a comparison in real decoding
(`validation-…`), and last the bundle in the user's cache, where `ltd.load` finds it.
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
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.questions import load_questions
from ltd.evaluation.scores import Score, scores
from ltd.latency.cycle_bench import Plan
from ltd.latency.model import LatencyModel
from ltd.loading import load as load_decoder
from ltd.policies.learned.bundle import BEST_STATIC, FACTS, Bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import bundle_folder
from ltd.policies.static import Static
from ltd.policy_choice import setting_of
from ltd.target.locate import DEFAULT_TARGET
from ltd_rl.environments.rewards import TRAINERS, check_reward
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.human_eval import TASK, find_problems, write_human_eval
from ltd_rl.traces.limits import relative_costs, summary_for, worthwhile
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from ltd_rl.traces.sources import Source, obtain_generations, own_latency
from ltd_rl.traces.splits import split_generations
from ltd_rl.trainers.exact import Epoch, ExactConfig, train_exact
from ltd_rl.trainers.iterate import Schedule, iterate
from ltd_rl.trainers.ppo_config import PPOConfig

STAGES = 5
BUNDLE, TRAINING, QUESTIONS, HELD_OUT = "bundle", "training.json", "questions", "held-out"


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """What to tune, and how.

    Attributes:
        out: work folder; None is one in the user's cache.
        data_dir, tasks: the training questions; None is HumanEval from the package human-eval.
        limit: only the first so many questions of every task; None for all.
        max_new_tokens: per recorded answer.
        trainer: exact or ppo.
        reward: by name, one that the trainer knows, see `ltd_rl.environments.rewards`.
        seconds: about how long to measure costs.
        questions: at most so many held-out ones are decoded to compare.
        target, draft, dtype, threads: as for `ltd.load`.

    Raises:
        InputError: a setting that cannot work.
    """

    out: Path | None = None
    data_dir: Path | None = None
    tasks: tuple[str, ...] = (TASK,)
    limit: int | None = None
    max_new_tokens: int = 128
    trainer: str = "exact"
    reward: str = "renewal"
    seconds: float = 60.0
    questions: int = 24
    target: str | None = None
    draft: str | None = None
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.trainer not in TRAINERS:
            raise InputError(f"there is no trainer {self.trainer!r}; use {' or '.join(TRAINERS)}")
        check_reward(self.reward, self.trainer)
        if self.draft == "none":
            raise InputError("policies steer a draft, so there must be one; name a head, or leave the shipped one")
        for name in ("questions", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        Plan(seconds=self.seconds)  # raises if it is out of range


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What came out.

    Attributes:
        policy: as it is kept.
        folder: its bundle in the cache.
        names: method names of `ltd eval`, by what they are for people.
        scores: of these methods, in real decoding of held-out questions.
        learned: whether the learned policies were kept, and not a static setting.
    """

    policy: Learned
    folder: Path
    names: dict[str, str]
    scores: dict[str, Score]
    learned: bool


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
    def default_static(self) -> Static:
        """The static tree that would be used here without learned policies: the decoder was loaded with it."""
        assert isinstance(self.decoder.policy, Static)
        return self.decoder.policy

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
    work = prepare(config, load)
    latency = measure_costs(work)
    generations, held_out = record_traces(work)
    sizes, depth = worthwhile(generations, latency)
    tables = outcomes_of(generations, latency, sizes, depth), outcomes_of(held_out, latency, sizes, depth)
    policy = train(work, latency, *tables)
    static = best_setting(tables[0])
    results, names = compare(work, held_out, static)
    return keep(work, policy, static, results, names)


def check_questions(config: TuneConfig) -> None:
    """Raises InputError if there are no questions to split into training and validation, before a model loads."""
    if config.data_dir is None:
        find_problems()
        if config.tasks != (TASK,):
            raise InputError(f"the tasks {', '.join(config.tasks)} are in no folder; give --data-dir, or no tasks")
        count = 2 if config.limit is None else config.limit  # there are many
    else:
        count = len(load_questions(config.data_dir, config.tasks, config.limit))
    if count < 2:
        raise InputError("there is one question to train on; a second one is needed to validate with")


def prepare(config: TuneConfig, load: Callable[..., Decoder]) -> Work:
    """Loads the models and finds the folders."""
    decoder = load(config.target, config.draft, policy="static", dtype=config.dtype, threads=config.threads)
    here = setting_of(decoder)
    assert here is not None, "TuneConfig takes no draft none"
    setting = replace(here, target=Path(config.target or DEFAULT_TARGET).name)
    if setting.head_sha256 is None:
        raise InputError("the draft's weights have no hash to know them by; convert the head to ltd's own layout first")
    folder = config.out or cache_folder() / "tuning" / bundle_folder(setting).name
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


def record_traces(work: Work) -> tuple[list[RecordedGeneration], list[RecordedGeneration]]:
    """Traces of the training questions and of the held-out ones."""
    announce(2, "traces of the training questions, as far as they are missing")
    return split_generations(obtain_generations(work.source, work.load))


def train(work: Work, latency: LatencyModel, training: Outcomes, validation: Outcomes) -> Learned:
    """Trains the policies and writes them to the work folder."""
    config = work.config
    announce(
        3,
        f"training by {config.trainer} for the reward {config.reward}: sizes up to {training.sizes[-1]}, depths up to "
        f"{training.depth}, {training.positions} positions, {validation.positions} held out",
    )
    trainer = train_by_ppo if config.trainer == "ppo" else train_exactly
    policy, course = trainer(work, training, validation)
    policy = replace(policy, costs=relative_costs(training, latency))
    settings = {"trainer": config.trainer, "tasks": list(config.tasks), "max_new_tokens": config.max_new_tokens,
                "positions": training.positions, BEST_STATIC: best_setting(training), **course}  # fmt: skip
    write_text(work.folder / TRAINING, json.dumps(settings, indent=1) + "\n")
    save_bundle(Bundle(policy, config.reward, settings), work.folder / BUNDLE)
    return policy


def train_exactly(work: Work, training: Outcomes, validation: Outcomes) -> tuple[Learned, Record]:
    """By the exact trainer; and its settings and course."""
    config = ExactConfig(reward=work.config.reward)
    summary = summary_for(training.sizes)
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


def compare(work: Work, held_out: list[RecordedGeneration], static: tuple[int, int]) -> tuple[Record, dict[str, str]]:
    """Decodes held-out questions by all methods in turns: the results of `ltd eval`, and names for people."""
    names = {
        "plain decoding": BASELINE,
        "default static": f"static:{work.default_static.depth}:{work.default_static.size}",
        "EAGLE-3's static (8, 60)": "eagle3",
        f"best static ({static[0]}, {static[1]})": f"static:{static[0]}:{static[1]}",
        "learned": f"bundle:{work.folder / BUNDLE}",
    }
    methods = tuple(dict.fromkeys(names.values()))
    data_dir = work.folder / HELD_OUT
    count = write_held_out(work, held_out, data_dir)
    announce(4, f"decoding {count} held-out questions in {len(methods)} ways, in turns")
    mark = str(file_hash(work.folder / BUNDLE / FACTS))[:8]  # other policies, another comparison
    config = EvalConfig(
        data_dir=data_dir,
        out=work.folder / f"validation-{mark}",
        tasks=work.config.tasks,
        max_new_tokens=work.config.max_new_tokens,
        target=work.config.target,
        draft=work.config.draft,
        dtype=work.config.dtype,
        threads=work.config.threads,
        methods=methods,
    )
    return evaluate(config, work.load), names


def write_held_out(work: Work, held_out: list[RecordedGeneration], data_dir: Path) -> int:
    """Writes the questions of held-out generations as a data folder of their own; how many there are."""
    chosen = {(generation.task, generation.question_id) for generation in held_out}
    assert work.source.data_dir is not None
    questions = load_questions(work.source.data_dir, work.config.tasks, work.config.limit)
    each = max(1, work.config.questions // len(work.config.tasks))
    count = 0
    for task in work.config.tasks:
        kept = [q for q in questions if q.task == task and (task, q.question_id) in chosen][:each]
        lines = [json.dumps({"question_id": q.question_id, "turns": list(q.turns)}) for q in kept]
        (data_dir / task).mkdir(parents=True, exist_ok=True)
        write_text(data_dir / task / "question.jsonl", "\n".join(lines) + "\n")
        count += len(kept)
    return count


def keep(work: Work, policy: Learned, static: tuple[int, int], results: Record, names: dict[str, str]) -> Tuned:
    """Writes the fastest into the cache: the learned policies or, if one is faster, a static setting."""
    found = {method: row["mean"] for method, row in scores(results).items()}
    fixed = work.default_static
    rivals = {f"static:{depth}:{size}": (depth, size) for depth, size in (static, (fixed.depth, fixed.size))}
    fastest = max([names["learned"], *rivals], key=lambda method: found[method].tokens_per_second)
    if fastest in rivals:
        policy = constant(policy, *rivals[fastest])
    validation = {name: asdict(found[method]) for name, method in names.items()}
    settings = read_json(work.folder / TRAINING, dict[str, Any], str(work.folder / TRAINING))
    folder = bundle_folder(work.setting)
    announce(5, f"writing {'a static setting' if fastest in rivals else 'the learned policies'} to {folder}")
    save_bundle(Bundle(policy, work.config.reward, settings, validation), folder)
    return Tuned(policy, folder, names, found, fastest not in rivals)


def constant(policy: Learned, depth: int, size: int) -> Learned:
    """A static setting as a policy, which may not lose either, where its size is among those with known costs."""
    costs = policy.costs
    if costs is not None:
        step = policy.sizes.index(size) if size in policy.sizes else None
        costs = None if step is None else replace(costs, verify=(costs.verify[step],))
    return Learned(policy.made_for, depth, (size,), costs=costs)
