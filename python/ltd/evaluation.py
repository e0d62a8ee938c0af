"""Compares decoding methods on questions: what each of them generates, and how fast.

All methods run in one process on one loaded model, prompt by prompt in rotating order, so that a machine that gets
slower or faster in between does so for all of them alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from tqdm import tqdm

from ltd.acceptance import Sampling
from ltd.decoder import Decoder
from ltd.errors import InputError
from ltd.files import write_text
from ltd.journal import Journal, Record
from ltd.loading import load as load_decoder
from ltd.loading import set_threads
from ltd.questions import Question, Turn, all_turns, load_questions
from ltd.runs import (
    BASELINE,
    Method,
    RunConfig,
    check_method,
    check_turns,
    encode_turn,
    first_difference,
    in_rotation,
    run_settings,
)

SampleKey = tuple[str, str, int, str]  # task, question, turn (from 0), method
Samples = dict[SampleKey, Record]
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class EvalConfig(RunConfig):
    """What to compare, on what; `out` is a folder.

    Attributes:
        methods: `none` is plain decoding, `eagle3` the static tree (8, 60), `static:D:V` any other static tree,
            `bundle:FOLDER` a policy bundle, `tuned` the learned policy that `ltd.load` takes by default,
            `controller:FILE` a fitted controller.
        temperature: 0 is greedy.
        seed: where sampling starts; every question gets its own seed from it.
    """

    methods: tuple[str, ...] = (BASELINE, "eagle3")
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        Sampling(self.temperature, seed=self.seed)  # raises if they are out of range
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise InputError(f"the methods are {', '.join(self.methods) or 'none at all'}; name each method once")


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


def evaluate(config: EvalConfig, load: Callable[..., Decoder] = load_decoder) -> Record:
    """Runs what is missing, writes `results.json` into the folder, and returns what it holds.

    Args:
        config: what to compare.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong, or the folder is another run's, before a model loads;
            or a turn is too long, as early as that is known.
    """
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    pieces = plan(questions, [Method.parse(name) for name in config.methods], config.seed)
    set_threads(config.threads)  # a tuned policy may be made for a number of threads
    settings = run_settings(config, questions)
    with Journal(config.out / "samples.jsonl", settings) as journal:
        samples = {(s["task"], s["question_id"], s["turn"], s["method"]): s for s in journal.records}
        missing = [piece for piece in pieces if piece.key not in samples]
        if missing:
            generate_missing(config, missing, samples, journal, load)
    results = {"settings": settings, "samples": published(pieces, samples)}
    write_text(config.out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def plan(questions: Sequence[Question], methods: Sequence[Method], seed: int) -> list[Piece]:
    """Every answer in the order of generation."""
    seeds = {question: seed + number for number, question in enumerate(questions)}
    return [Piece(turn, method, seeds[turn.question]) for turn, method in in_rotation(all_turns(questions), methods)]


def generate_missing(
    config: EvalConfig, missing: Sequence[Piece], samples: Samples, journal: Journal, load: Callable[..., Decoder]
) -> None:
    """Loads the model, warms every method up, and adds the missing samples to `samples` and to the journal."""
    decoder = load(config.target, config.draft, dtype=config.dtype, threads=config.threads)
    check_turns(decoder, dict.fromkeys(piece.turn for piece in missing))
    short = dataclasses.replace(config, max_new_tokens=min(WARM_UP_TOKENS, config.max_new_tokens))
    for method in {piece.method.name: piece.method for piece in missing}.values():
        check_method(decoder, method)
        answer(decoder, Piece(Turn(missing[0].turn.question, 0), method, config.seed), samples, short)
    with tqdm(total=len(samples) + len(missing), initial=len(samples), unit="answer", desc="evaluating") as progress:
        for piece in missing:
            samples[piece.key] = answer(decoder, piece, samples, config)
            journal.append(samples[piece.key])
            progress.set_postfix_str(f"{piece.turn.question.task} {piece.method.name}", refresh=False)
            progress.update()


def answer(decoder: Decoder, piece: Piece, samples: Samples, config: EvalConfig) -> Record:
    """Generates one answer, after the same method's own answers to the turns before, and returns its sample."""
    keys: list[SampleKey] = [(*key, piece.method.name) for key in piece.turn.before]
    before = [samples[key]["token_ids"] for key in keys]
    prompt = encode_turn(decoder, piece.turn, before)
    news = decoder.stream(
        prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=piece.seed,
        policy=piece.method.policy,
    )
    token_ids = list(chain.from_iterable(news))
    return {
        **dict(zip(("task", "question_id", "turn", "method"), piece.key, strict=True)),
        "prompt_hash": token_hash(prompt),
        **decoder.last_statistics.to_dict(),
        "token_ids": token_ids,
    }


def published(pieces: Sequence[Piece], samples: Samples) -> list[Record]:
    """The samples as `results.json` holds them, each compared with plain decoding's answer to the same prompt.

    `token_ids` become a hash. `identical_to_none` is null where there is nothing to compare: for plain decoding itself,
    when it was not among the methods, and when an earlier answer differed, so that the prompts do.
    """
    results = []
    for piece in pieces:
        sample = dict(samples[piece.key])
        plain = samples.get((*piece.turn.key, BASELINE))
        token_ids = sample.pop("token_ids")
        sample["token_ids_sha256"] = token_hash(token_ids)
        sample["identical_to_none"] = sample["first_divergence"] = None
        if plain is not None and piece.method.name != BASELINE and plain["prompt_hash"] == sample["prompt_hash"]:
            sample["first_divergence"] = first_difference(token_ids, plain["token_ids"])
            sample["identical_to_none"] = sample["first_divergence"] is None
        results.append(sample)
    return results


def token_hash(token_ids: Sequence[int]) -> str:
    """SHA-256 of the ids, written as decimal numbers with spaces between."""
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()
