"""Where training data comes from: folders that are given, or traces and latencies made here first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ltd.common.number_ranges import check_least
from ltd.common.threads import check_threads
from ltd.decoding.decoder import Decoder
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.drafts.opening import find_head
from ltd.errors import InputError
from ltd.evaluation.questions import Question, load_questions
from ltd.evaluation.sources import expand_tasks
from ltd.latency.calibration import calibrate
from ltd.latency.cycle_bench import Plan
from ltd.latency.cycle_costs import measured_on
from ltd.latency.model import LatencyModel, setup_of
from ltd.loading import load as load_decoder
from ltd.policies.learned.setting import Setting
from ltd.policy_choice import resolve_draft
from ltd_rl.traces.format import RecordedGeneration, load_traces
from ltd_rl.traces.outcomes import Outcomes, check_same_width, checked_ladder, outcomes_of
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.traces.samplings import GREEDY
from ltd_rl.traces.splits import split_generations, split_questions

TRACES, LATENCY, PPO = "traces", "latency.json", "ppo"  # the last is what was trained on both


@dataclass(frozen=True, slots=True)
class Source:
    """What to read or to make.

    Attributes:
        folder: what is made is kept here, and reused.
        traces: folder of `ltd record`; None records.
        latency: file of `ltd calibrate`; None calibrates.
        data_dir, tasks: the questions, needed to record; without a folder well-known tasks by name.
        target, draft, device, dtype, threads: as for `ltd.load`.
        limit: only the first so many questions; None for all.
        max_new_tokens: per answer.
        temperatures: of recorded answers, which the questions take in turns; 0 is greedy.
        depth, width: of the recorded trees.
        seconds: about how long to calibrate.

    Raises:
        InputError: a number out of range.
    """

    folder: Path
    traces: Path | None = None
    latency: Path | None = None
    data_dir: Path | None = None
    tasks: tuple[str, ...] = ()
    target: str | None = None
    draft: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    limit: int | None = None
    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = GREEDY
    depth: int = 12
    width: int = DEFAULT_WIDTH
    seconds: float = 60.0

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check_least(self, max_new_tokens=1)
        Plan(seconds=self.seconds)  # raises if it is out of range
        object.__setattr__(self, "tasks", expand_tasks(self.data_dir, self.tasks))

    def questions(self) -> list[Question]:
        """What to record the answers to; raises InputError as `record_config` does, or if they are not there."""
        config = self.record_config()
        return load_questions(config.data_dir, config.tasks, config.limit)

    def check_drafts(self) -> None:
        """Raises InputError, before anything long, unless there is a draft head for what searches a head's settings."""
        if find_head(resolve_draft(self.target, self.draft)) is None:
            raise InputError("these settings steer a draft head, so there must be one that fits; name it with --draft")

    def record_config(self) -> RecordConfig:
        """What to record; raises InputError if it is not known."""
        if not self.tasks:
            raise InputError("there is nothing to record; give --traces, or --dataset_train and its --data_dir")
        return RecordConfig(
            data_dir=self.data_dir,
            out=self.folder / TRACES,
            tasks=self.tasks,
            limit=self.limit,
            max_new_tokens=self.max_new_tokens,
            target=self.target,
            draft=self.draft,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            depth=self.depth,
            width=self.width,
            temperatures=self.temperatures,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What policies are trained on.

    Attributes:
        training, validation: outcomes of different questions, four fifths and one.
        latency: of the machine.
        prompts: token ids, of the training generations.
    """

    training: Outcomes
    validation: Outcomes
    latency: LatencyModel
    prompts: list[list[int]]

    @property
    def made_for(self) -> Setting:
        """What the latencies were measured with; the target's sizes are not among it."""
        return measured_on(self.latency.setup, self.training.width)


def obtain(source: Source, sizes: Sequence[int]) -> Data:
    """Reads or makes traces and latencies, and works out what every decision comes to.

    Args:
        source: what to read or to make.
        sizes: the ladder.

    Raises:
        InputError: something is missing or does not fit.
    """
    checked_ladder(sizes)
    if source.depth < 1:
        raise InputError(f"the depth limit is {source.depth}; it must be at least 1")
    latency = given_latency(source)
    if source.traces is None:
        split_questions((each.task, each.question_id) for each in source.questions())  # raises before anything is long
    generations = obtain_generations(source)
    training, validation = split_generations(generations)
    latency = latency or latency_for(source, generations)
    return Data(
        outcomes_of(training, latency, sizes, source.depth),
        outcomes_of(validation, latency, sizes, source.depth),
        latency,
        [generation.tokens[: generation.prompt_length].tolist() for generation in training],
    )


def given_latency(source: Source) -> LatencyModel | None:
    """The latencies that are given, if any; InputError if they do not suit the traces that are to be recorded."""
    if source.latency is None:
        return None
    latency = LatencyModel.load(source.latency)
    if source.traces is None and latency.drafts:
        check_same_width(latency, source.width)  # before anything is long
    return latency


def obtain_generations(source: Source, load: Callable[..., Decoder] = load_decoder) -> list[RecordedGeneration]:
    """The traces that are given, or those in the folder, after recording what is missing of them.

    Args:
        load: stands in for `ltd.load`.
    """
    if source.traces is not None:
        return load_traces(source.traces).generations
    config = source.record_config()
    record(config, load)
    return load_traces(config.out).generations


def latency_for(
    source: Source, generations: Sequence[RecordedGeneration], load: Callable[..., Decoder] = load_decoder
) -> LatencyModel:
    """`own_latency` of the beam width that the traces have."""
    return own_latency(replace(source, width=generations[0].width), load)


def own_latency(source: Source, load: Callable[..., Decoder] = load_decoder) -> LatencyModel:
    """The latencies in the folder, measured if there are none, or none of this setup; warns where they are noisy.

    Args:
        load: stands in for `ltd.load`.

    Raises:
        InputError: those in the folder are of another setup, and a run of PPO there goes by them.
    """
    file = source.folder / LATENCY
    decoder = load(
        source.target, source.draft, policy="static", device=source.device, dtype=source.dtype, threads=source.threads
    )
    if file.exists():
        known = LatencyModel.load(file)
        found = known.mismatch(setup_of(decoder, source.target, source.width))
        if found is None:
            return known
        if (source.folder / PPO).exists():  # it could never go on with other latencies
            raise InputError(
                f"{found}; the run in {source.folder / PPO} goes by those in {file}, so use the same settings to go "
                "on with it, or name another place"
            )
    plan = Plan(seconds=source.seconds, depth=source.depth, width=source.width)
    latency = calibrate(decoder, plan, target=source.target)
    file.parent.mkdir(parents=True, exist_ok=True)
    latency.save(file)
    if warning := latency.warning():
        print(f"warning: {warning}", file=sys.stderr)
    return latency
