"""Questions that the target writes itself, of all kinds of text that drafts learn from: for policies to learn on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltd.common.files import write_text
from ltd.common.journal import Journal
from ltd.common.number_ranges import check_least, check_seed
from ltd.common.threads import check_threads, set_threads
from ltd.errors import InputError
from ltd.target.device import resolve_device, resolve_dtype
from ltd.target.locate import DEFAULT_TARGET
from ltd.target.model import attended_tokens, load_model
from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import chat_format_of
from ltd.training.data.conversation import USER, Conversation
from ltd.training.data.given_texts import GivenTexts
from ltd.training.data.mix import KINDS
from ltd.training.data.stage import open_in_lockstep
from ltd.training.data.writers import shortest_context
from ltd.training.data.writing import ShardPlan, WritingJob, Written, own_words

OWN = "own"  # the task's name
EACH = 20  # questions of every kind: of all together about as many as HumanEval has
CONTEXT = 1024  # tokens of a conversation at most, where the target attends to so many
TURNS = 2  # of a conversation that are asked at most
LENGTHS = 4  # of given texts, which are alike in a batch: so many batches has a kind that gives them
TRIES = 3  # times as many batches of a kind, as some conversations come to nothing


@dataclass(frozen=True, slots=True)
class OwnQuestionsConfig:
    """Which questions to write.

    Attributes:
        data_dir: the data folder; they become its task `own`.
        each: so many of every kind of text, see `ltd.training.data.mix`.
        seed: of all that is drawn.
        target, device, dtype, threads: as for `ltd.load`.

    Raises:
        InputError: a number out of range.
    """

    data_dir: Path
    each: int = EACH
    seed: int = 0
    target: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_least(self, each=1)
        check_seed(self)
        check_threads(self.threads)

    @property
    def file(self) -> Path:
        """Where the questions are, one conversation a line, as `ltd.evaluation.questions` reads them."""
        return self.data_dir / OWN / "question.jsonl"


@dataclass(frozen=True, slots=True)
class KindOfQuestions:
    """The questions of one kind.

    Attributes:
        kind: its name.
        questions: what the user says, turn by turn.
        answers: token ids of what the target answered, without the token that ends a turn; for the kinds that give
            text.
    """

    kind: str
    questions: list[list[str]]
    answers: list[list[int]]


def write_own_questions(config: OwnQuestionsConfig) -> dict[str, int]:
    """Writes the questions that are not there yet: how many there are of each kind.

    What is finished of a kind is kept, so that a run that was killed goes on. Kinds about a given text have it from the
    answers to others; their own are cut off at once, as nobody reads them. Where too few answers have code, none is
    given, and there are no questions about it.

    Raises:
        InputError: the target has no chat template, or attends to too few tokens; or the folder has questions that
            other settings led to, or is another run's.
    """
    settings = {"target": Path(config.target or DEFAULT_TARGET).name, "each": config.each, "seed": config.seed}
    with Journal(config.file.with_name("written.jsonl"), settings) as journal:
        known = [KindOfQuestions(**record) for record in journal.records]
        if len(known) < len(KINDS):
            for one in _rest(config, known):
                journal.append(asdict(one))
                known.append(one)
        # In turns, so that the first so many have all kinds.
        lines = [
            {"question_id": f"{one.kind}-{number}", "category": one.kind, "turns": one.questions[number]}
            for number in range(config.each)
            for one in known
            if number < len(one.questions)
        ]
        write_text(config.file, "".join(json.dumps(line) + "\n" for line in lines))
    return {one.kind: len(one.questions) for one in known}


def _rest(config: OwnQuestionsConfig, known: list[KindOfQuestions]) -> Iterator[KindOfQuestions]:
    """The kinds that come after the known ones, which the caller adds to these as they come."""
    set_threads(config.threads)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    target = load_model(config.target, dtype, device)
    chat = chat_format_of(target)
    context = min(CONTEXT, attended_tokens(target.model.config))
    # One length for all kinds, so that a batch of each has as many rows.
    whole = TrainDraftConfig(
        out=config.data_dir, length=context, context_length=context, rows=config.each, seed=config.seed
    )
    begun = replace(whole, answer_length=1, two_turn_share=0.0, rows=-(-config.each // LENGTHS))
    if context < (needed := shortest_context(chat, begun)):
        raise InputError(f"the target attends to at most {context} tokens, but its own questions need {needed}")
    forward = open_in_lockstep(target)
    writes, begins = (WritingJob(lambda: forward, chat, each, dtype).open() for each in (whole, begun))
    with tqdm(total=len(KINDS), initial=len(known), unit="kind", desc="writing questions") as progress:
        for number, kind in list(enumerate(KINDS))[len(known) :]:
            earlier = (answer for one in known for answer in one.answers)
            given = GivenTexts(chat, earlier, random.Random(f"{config.seed} {number}"))
            texts: dict[tuple[str, ...], Conversation] = {}
            write, batches = (writes, TRIES) if kind.given == "nothing" else (begins, TRIES * LENGTHS)
            for batch in range(batches if given.enough_for(kind) else 0):
                *_, written = write(ShardPlan(number + batch * len(KINDS), kind, given))
                assert isinstance(written, Written)
                texts |= {asked(each, target.tokenizer): each for each in written.conversations}
                texts.pop((), None)
                if len(texts) >= config.each:
                    break
            chosen = list(texts.items())[: config.each]
            answers = [own_words(answer, chat) for _, each in chosen for answer in each.answers()]
            progress.update()
            yield KindOfQuestions(kind.name, [list(turns) for turns, _ in chosen], answers)


def asked(conversation: Conversation, tokenizer: Any) -> tuple[str, ...]:
    """What the user says, turn by turn, the first turns only; nothing where a turn has no words."""
    texts = tuple(tokenizer.decode(turn).strip() for turn in islice(conversation.turns(USER), TURNS))
    return texts if all(texts) else ()
