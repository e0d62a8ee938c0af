"""Compares decoding methods on questions: what each of them generates, and how fast.

All methods run in one process on one loaded model, prompt by prompt in rotating order, so that a machine that gets
slower or faster in between does so for all of them alike. Where several machines share the work, each has questions of
its own, which all methods answer there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from ltd.common.files import write_text
from ltd.common.journal import Journal, Record
from ltd.common.machine import machine_facts
from ltd.common.threads import set_threads
from ltd.common.workers import Crew, Here, local_paths
from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.against import find_method
from ltd.evaluation.answerers import Answerer, Models, find_chain
from ltd.evaluation.encoding import check_turns, encode_turn
from ltd.evaluation.lossless import first_difference
from ltd.evaluation.method_names import expand, plain_among, split_label
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.methods import Method, NewBundle
from ltd.evaluation.questions import Question, Turn, all_turns, load_questions
from ltd.evaluation.run_config import (
    RunConfig,
    check_chain,
    check_samplers,
    choose_methods,
    for_workers,
    in_rotation,
    model_files,
    run_settings,
)
from ltd.evaluation.scores import all_scores
from ltd.loading import load as load_decoder
from ltd.policies.learned.bundle import Bundle

SampleKey = tuple[str, str, int, str]  # task, question, turn (from 0), method
Samples = dict[SampleKey, Record]
WARM_UP_TOKENS = 16
MOST_SEEDS = 2**63  # that `Sampling` takes, from 0


@dataclass(frozen=True, slots=True)
class EvalConfig(RunConfig):
    """What to compare, on what; `out` is a folder.

    Attributes:
        methods: by name, each of them one of `ltd.evaluation.method_table.rows` (`ltd methods` prints them); speedups
            are relative to `none`. Options stand behind colons. `paper` stands for the rows of the paper's table.
            `LABEL=METHOD` gives a method another name in tables.
        chain: the folder of the chain draft; None is the shipped one.
        turns: only the first so many turns of every question; None for all.
        temperature: 0 is greedy.
        seed: where sampling starts; every question gets its own seed from it.
        against: one of the methods, with which the report compares all others; what is generated does not depend on it.
    """

    methods: tuple[str, ...] = (BASELINE, "eagle3")
    chain: str | None = None
    turns: int | None = None
    temperature: float = 0.0
    seed: int = 0
    against: str | None = None

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        object.__setattr__(self, "methods", expand(self.methods))
        Sampling(self.temperature, seed=self.seed)  # raises if they are out of range
        if self.turns is not None and self.turns < 1:
            raise InputError(f"turns is {self.turns}; it counts the turns of a question, so it must be at least 1")
        if not self.methods or len({split_label(name)[0] for name in self.methods}) != len(self.methods):
            raise InputError(f"the methods are {', '.join(self.methods) or 'none at all'}; name each method once")
        if self.against is not None:
            find_method(self.methods, self.against)

    @property
    def is_sampled(self) -> bool:
        """See `RunConfig`."""
        return self.temperature > 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """One answer to be generated: to a turn, by a method, with a seed."""

    turn: Turn
    method: Method
    seed: int

    @property
    def key(self) -> SampleKey:
        """What names its sample."""
        return *self.turn.key, self.method.name


@dataclass(frozen=True, slots=True)
class QuestionWork:
    """What is missing of one question, and the answers that are there, which its prompts hold."""

    pieces: tuple[Piece, ...]
    before: Samples


@dataclass(frozen=True, slots=True)
class EvalJob:
    """Answers questions by all methods, on a model that is loaded once.

    Attributes:
        config: what to compare.
        missing: all that is to be answered, here or elsewhere.
        names_machine: whether each sample says where it was made.
        load: stands in for `ltd.load`.
    """

    config: EvalConfig
    missing: tuple[Piece, ...]
    names_machine: bool
    load: Callable[..., Decoder] = load_decoder

    @property
    def files(self) -> Sequence[Path]:
        """See `ltd.common.workers.Job`; what methods read is read before, but for rules of chains."""
        rules = {name for piece in self.missing if piece.method.needs_chain for name in piece.method.files}
        return [*model_files(self.config), *local_paths(self.config.chain), *sorted(rules)]

    def open(self) -> Callable[[QuestionWork], Iterator[Record]]:
        """Loads the model and warms every method up; raises InputError if a method does not fit, or a turn is long."""
        config = self.config
        # Every method reads the whole prompt, which others have read before it.
        decoder = self.load(config.target, config.draft, **config.load_options(), reuse_mib=0)
        check_turns(decoder, dict.fromkeys(piece.turn for piece in self.missing))
        short = dataclasses.replace(config, max_new_tokens=min(WARM_UP_TOKENS, config.max_new_tokens))
        models = Models(decoder, config.target, find_chain(config.chain))
        methods = {piece.method.name: piece.method for piece in self.missing}
        answerers = {name: method.open(models) for name, method in methods.items()}
        first = Turn(self.missing[0].turn.question, 0)
        for name, method in methods.items():
            answer(decoder, answerers[name], Piece(first, method, config.seed), {}, short)
        here = {"node": platform.node(), **machine_facts(decoder.target.device)}
        machine = {"machine": here} if self.names_machine else {}

        def work(unit: QuestionWork) -> Iterator[Record]:
            samples = dict(unit.before)
            for piece in unit.pieces:
                made = answer(decoder, answerers[piece.method.name], piece, samples, config)
                samples[piece.key] = {**made, **machine}
                yield samples[piece.key]

        return work


def evaluate(
    config: EvalConfig,
    load: Callable[..., Decoder] = load_decoder,
    crew: Crew | None = None,
    bundles: Mapping[str, Bundle] | None = None,
) -> Record:
    """Runs what is missing, writes `results.json` into the folder, and returns what it holds.

    Args:
        config: what to compare.
        load: stands in for `ltd.load`.
        crew: who answers, question by question; None is this process. Samples of others say on which machine.
        bundles: by the names of methods `bundle:FOLDER`, the policies for folders that are written here, once the
            results' folder is known to be this run's; so a run that is refused leaves those of the other run alone.

    Raises:
        InputError: something in the config or the data is wrong, or the folder is another run's, before a model loads;
            or a turn is too long, as early as that is known.
    """
    crew = crew or Here()
    work = for_workers(config) if crew.is_remote else config
    asked = load_questions(config.data_dir, config.tasks, config.limit)
    questions = [dataclasses.replace(question, turns=question.turns[: config.turns]) for question in asked]
    set_threads(config.threads)  # a tuned policy may be made for a number of threads
    methods = choose_methods(config, config.methods, bundles)
    check_chain(config.chain, methods)
    check_samplers(config, methods)
    pieces = plan(questions, methods, config.seed)
    settings = run_settings(config, questions, methods, crew) | ({"ray": True} if crew.is_remote else {})
    with Journal(config.out / "samples.jsonl", settings) as journal:
        for method in methods:
            if isinstance(method, NewBundle):
                method.write()
        samples = {(s["task"], s["question_id"], s["turn"], s["method"]): s for s in journal.records}
        missing = [piece for piece in pieces if piece.key not in samples]
        if crew.is_remote:  # what was half done may be done on another machine now
            begun = {piece.turn.question for piece in missing}
            missing = [piece for piece in pieces if piece.turn.question in begun]
            again = {piece.key for piece in missing}
            samples = {key: sample for key, sample in samples.items() if key not in again}
        if missing:
            generate_missing(EvalJob(work, tuple(missing), crew.is_remote, load), samples, journal, crew)
    results = {"settings": settings, "samples": published(pieces, samples, config.temperature)}
    results["scores"] = all_scores(results)
    write_text(config.out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def plan(questions: Sequence[Question], methods: Sequence[Method], seed: int) -> list[Piece]:
    """Every answer in the order of generation.

    Raises:
        InputError: the questions' seeds, the first of which is `seed`, are more than there are.
    """
    if seed + len(questions) > MOST_SEEDS:
        raise InputError(
            f"seed {seed} is out of range: each of the {len(questions)} questions gets the next one, so it must be 0 … "
            f"{MOST_SEEDS - len(questions)}"
        )
    seeds = {question: seed + number for number, question in enumerate(questions)}
    return [Piece(turn, method, seeds[turn.question]) for turn, method in in_rotation(all_turns(questions), methods)]


def generate_missing(job: EvalJob, samples: Samples, journal: Journal, crew: Crew) -> None:
    """Has the crew answer what is missing, and adds the samples to `samples` and to the journal."""
    units = []
    for question, pieces in groupby(job.missing, key=lambda piece: piece.turn.question):
        mine = (question.task, question.question_id)
        before = {key: sample for key, sample in samples.items() if key[:2] == mine}
        units.append(QuestionWork(tuple(pieces), before))
    total = len(samples) + len(job.missing)
    with tqdm(total=total, initial=len(samples), unit="answer", desc="evaluating") as progress:
        for sample in crew.do(job, units):
            samples[sample["task"], sample["question_id"], sample["turn"], sample["method"]] = sample
            journal.append(sample)
            progress.set_postfix_str(f"{sample['task']} {sample['method']}", refresh=False)
            progress.update()


def answer(decoder: Decoder, answerer: Answerer, piece: Piece, samples: Samples, config: EvalConfig) -> Record:
    """Generates one answer, after the same method's own answers to the turns before, and returns its sample."""
    keys: list[SampleKey] = [(*key, piece.method.name) for key in piece.turn.before]
    before = [samples[key]["token_ids"] for key in keys]
    prompt = encode_turn(decoder, piece.turn, before)
    token_ids, statistics = answerer.answer(
        prompt, max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=piece.seed
    )
    return {
        **dict(zip(("task", "question_id", "turn", "method"), piece.key, strict=True)),
        "prompt_hash": token_hash(prompt),
        **statistics.to_dict(),
        "token_ids": token_ids,
    }


def published(pieces: Sequence[Piece], samples: Samples, temperature: float) -> list[Record]:
    """The samples as `results.json` holds them, each compared with plain decoding's answer to the same prompt.

    `token_ids` become a hash. `identical_to_none` is null where there is nothing to compare, and `not_compared` says
    why.
    """
    results, baseline = [], plain_among(piece.method.name for piece in pieces)
    for piece in pieces:
        sample = dict(samples[piece.key])
        plain = None if baseline is None else samples.get((*piece.turn.key, baseline))
        token_ids = sample.pop("token_ids")
        sample["token_ids_sha256"] = token_hash(token_ids)
        sample["identical_to_none"] = sample["first_divergence"] = None
        sample["not_compared"] = reason_not_to_compare(piece.method, sample, plain, temperature)
        if plain is not None and sample["not_compared"] is None:
            sample["first_divergence"] = first_difference(token_ids, plain["token_ids"])
            sample["identical_to_none"] = sample["first_divergence"] is None
        results.append(sample)
    return results


def reason_not_to_compare(method: Method, sample: Record, plain: Record | None, temperature: float) -> str | None:
    """Why a sample's text need not be that of plain decoding, for people; None if it must."""
    if split_label(method.name)[1] == BASELINE:
        return "this is plain decoding itself"
    if plain is None:
        return "plain decoding is not among the methods"
    if temperature > 0 and not method.repeats_plain:
        return "it draws its random numbers in another way: the distribution is the same, the text of a seed is not"
    if plain["prompt_hash"] != sample["prompt_hash"]:
        return "an earlier answer differs, so the prompt does"
    return None


def token_hash(token_ids: Sequence[int]) -> str:
    """SHA-256 of the ids, written as decimal numbers with spaces between."""
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()
