"""`ltd check`: is the text still the target's own? Every turn of a set of questions, against `transformers`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from ltd.common.files import write_text
from ltd.common.journal import Journal, Record
from ltd.common.table import Table
from ltd.common.threads import set_threads
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.answerers import Models, find_chain
from ltd.evaluation.encoding import check_turns, encode_turn
from ltd.evaluation.lossless import check_greedy
from ltd.evaluation.methods import Method
from ltd.evaluation.questions import Turn, TurnKey, all_turns, load_questions
from ltd.evaluation.run_config import RunConfig, check_chain, check_samplers, choose_methods, run_settings
from ltd.loading import load as load_decoder

WHY_GREEDY = ", and of sampled text only the distribution is transformers' own, which no comparison of texts shows"
REFERENCE_BATCH = 8  # prompts that the reference generates for together
Done = dict[TurnKey, Record]


@dataclass(frozen=True, slots=True)
class CheckConfig(RunConfig):
    """What to compare, on what; `out` is a JSON file, and finished prompts are kept beside it.

    Attributes:
        method: the way to decode that is checked, named as in the evaluation.
        chain: the folder of a chain draft, for methods that need one; None is the shipped one.
    """

    dtype: str = "float32"
    method: str = "eagle3"
    chain: str | None = None

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        Method.parse(self.method)  # raises if there is no such method


def check(config: CheckConfig, load: Callable[..., Decoder] = load_decoder) -> Record:
    """Compares every turn of the questions, writes the file `config.out`, and returns what it holds.

    Every conversation goes on with the reference's answers.

    Args:
        config: what to compare.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong, or the file is another run's, before any model loads;
            or a turn is too long, as early as that is known.
    """
    if config.out.suffix != ".json":
        raise InputError(f"the results go to a file whose name ends in .json, not to {config.out}")
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    set_threads(config.threads)  # a tuned policy may be made for a number of threads
    (method,) = choose_methods(config, [config.method])
    check_chain(config.chain, [method])
    check_samplers(config, [method], WHY_GREEDY)
    settings = run_settings(config, questions, [method])
    turns = all_turns(questions)
    with Journal(config.out.with_suffix(".jsonl"), settings) as journal:
        done = {(r["task"], r["question_id"], r["turn"]): r for r in journal.records}
        missing = [turn for turn in turns if turn.key not in done]
        if missing:
            check_missing(config, method, missing, done, journal, load)
    results = {"settings": settings, "prompts": [done[turn.key] for turn in turns]}
    write_text(config.out, json.dumps(results, indent=1) + "\n")
    return results


def check_missing(
    config: CheckConfig,
    method: Method,
    missing: Sequence[Turn],
    done: Done,
    journal: Journal,
    load: Callable[..., Decoder],
) -> None:
    """Loads decoder and reference, and adds the missing comparisons to `done` and to the journal."""
    decoder = load(config.target, config.draft, **config.load_options())
    check_turns(decoder, missing)
    models = Models(decoder, config.target, find_chain(config.chain))
    answerer = method.open(models)
    with tqdm(total=len(done) + len(missing), initial=len(done), unit="prompt", desc="checking") as progress:
        for group in groups(missing):
            prompts = [
                encode_turn(decoder, turn, [done[key]["reference_ids"] for key in turn.before]) for turn in group
            ]
            comparisons = check_greedy(decoder, models.reference, prompts, config.max_new_tokens, answerer)
            for turn, comparison in zip(group, comparisons, strict=True):
                place = dict(zip(("task", "question_id", "turn"), turn.key, strict=True))
                done[turn.key] = {**place, **dataclasses.asdict(comparison)}
                journal.append(done[turn.key])
                progress.update()


def groups(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """The turns in groups for the reference: all first turns first, because the later ones need their answers."""
    for number in sorted({turn.number for turn in turns}):
        same = [turn for turn in turns if turn.number == number]
        yield from (same[start : start + REFERENCE_BATCH] for start in range(0, len(same), REFERENCE_BATCH))


def is_lossless(results: Record) -> bool:
    """Whether no prompt's text was wrong."""
    return all(prompt["verdict"] != "wrong" for prompt in results["prompts"])


def verdict_table(results: Record) -> Table:
    """Per task and in all: prompts, tokens compared, and how the comparisons ended."""
    verdicts = ("equal", "near tie", "wrong")
    groups_of = {task: [p for p in results["prompts"] if p["task"] == task] for task in results["settings"]["tasks"]}
    groups_of["all"] = results["prompts"]
    rows = [
        [
            task,
            str(len(prompts)),
            str(sum(prompt["tokens"] for prompt in prompts)),
            *(str(sum(prompt["verdict"] == verdict for prompt in prompts)) for verdict in verdicts),
        ]
        for task, prompts in groups_of.items()
    ]
    title = f"Greedy text against transformers, {results['settings']['dtype']}"
    return Table(title, ["task", "prompts", "tokens compared", "equal", "near ties", "wrong"], rows)
