"""Records traces: answers to questions, and the full-depth draft tree at every position of them.

Answers are greedy, or sampled at a temperature: with seeds, so that their texts are fixed as well. A recording may have
several temperatures, which the questions take in turns.

With the draft "lookup" nothing is drafted, and the answers are all there is to record: what the text proposes follows
from them.

Nothing here is left to chance, and a shard depends on the settings and its own questions only, so a recording that was
stopped goes on as if it had not been. Exact where the forwards are row-exact, which is the CPU engine; elsewhere up to
the rounding of the type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ltd.common.journal import Journal, Record
from ltd.common.number_ranges import check_least
from ltd.common.shards import SHARDS, check_space, shard_file
from ltd.common.workers import Crew, Here
from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder
from ltd.drafts import Draft
from ltd.drafts.base import DEFAULT_WIDTH, at_width
from ltd.drafts.opening import NONE, find_head, state_size
from ltd.errors import InputError
from ltd.evaluation.encoding import check_turns, encode_turn
from ltd.evaluation.questions import Question, Turn, all_turns, load_questions
from ltd.evaluation.run_config import RunConfig, for_workers, model_files, run_settings
from ltd.loading import load as load_decoder
from ltd.policy_choice import resolve_draft
from ltd.tree import MAX_DEPTH, NOT_ASKED, DraftTree, check_tree_limits
from ltd_rl.traces.drafting import draft_everywhere
from ltd_rl.traces.format import (
    FORMAT,
    GREEDY_FORMAT,
    RecordedGeneration,
    bytes_per_position,
    continuations,
    level_starts,
    path_ranks,
    save_shard,
)
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.samplings import GREEDY, checked_temperatures, samplings

LARGEST_STATE = float(np.finfo(np.float16).max)
NOT_IN_SETTINGS = ("threads", "cores", "rows", "gigabytes")  # nothing that is recorded depends on these
SAMPLED = ("temperatures", "top_k", "top_p", "seed", "sampling_sha256")  # in the settings where something is sampled


@dataclass(frozen=True, slots=True)
class RecordConfig(RunConfig):
    """What to record; `out` is a folder.

    Attributes:
        width: beam width of the recorded trees.
        depth: of the recorded trees, 0 … 12; without a head there are none, whatever it is, see `resolved`.
        rows: positions drafted at the same time.
        shard_questions: questions per file; what a kill loses at most.
        gigabytes: the most disk space that the traces may take.
        temperatures: of the answers, 0 being greedy; the questions take them in turns.
        top_k, top_p: of those that are sampled, see `ltd.decoding.acceptance.Sampling`.
        seed: every question that is sampled gets a seed of its own from it.
    """

    width: int = DEFAULT_WIDTH
    depth: int = MAX_DEPTH
    rows: int = 32
    shard_questions: int = 8
    gigabytes: float = 4.0
    temperatures: tuple[float, ...] = GREEDY
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        object.__setattr__(self, "temperatures", checked_temperatures(self.temperatures))
        Sampling(max(self.temperatures), self.top_k, self.top_p, self.seed)  # raises if they are out of range
        if self.depth != NOT_ASKED or find_head(self.draft) is not None:
            check_tree_limits(self.width, self.depth, 0)
        check_least(self, rows=1, shard_questions=1)
        if self.draft == NONE:
            raise InputError('traces are of a draft, so there must be one; name a head, or use the draft "lookup"')

    @property
    def is_sampled(self) -> bool:
        """See `RunConfig`."""
        return any(self.temperatures)

    def resolved(self) -> RecordConfig:
        """The same with the draft that `ltd.load` takes, and the depth -1 where that drafts nothing.

        Raises:
            InputError: there is no such target.
        """
        draft = resolve_draft(self.target, self.draft)
        name = None if draft is None else str(draft)
        return replace(self, draft=name, depth=NOT_ASKED if find_head(name) is None else self.depth)


@dataclass(frozen=True, slots=True)
class RecordJob:
    """Records single questions, each with how its answers are chosen, on a model that is loaded once.

    Attributes:
        config: `resolved`.
        questions: those that are asked.
        load: stands in for `ltd.load`.
    """

    config: RecordConfig
    questions: tuple[Question, ...]
    load: Callable[..., Decoder] = load_decoder

    @property
    def files(self) -> Sequence[Path]:
        """See `ltd.common.workers.Job`."""
        return model_files(self.config)

    def open(self) -> Callable[[tuple[Question, Sampling]], Iterator[RecordedGeneration]]:
        """Loads the model; raises InputError if there is no draft to record, or a turn is too long."""
        config = self.config
        decoder = open_decoder(config, self.load)
        draft = None if config.depth == NOT_ASKED else find_draft(decoder, config.width)
        check_turns(decoder, all_turns(self.questions))
        return lambda asked: record_question(decoder, draft, *asked, config)


def record(config: RecordConfig, load: Callable[..., Decoder] = load_decoder, crew: Crew | None = None) -> None:
    """Records what is missing in the folder.

    Args:
        config: what to record.
        load: stands in for `ltd.load`.
        crew: who records; None is this process.

    Raises:
        InputError: something in the config or the data is wrong, the traces could take too much space, or the folder is
            another run's, before a model loads; or a turn is too long, as early as that is known.
    """
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    config, crew = config.resolved(), crew or Here()
    work = for_workers(config) if crew.is_remote else config
    check_record_space(config, len(all_turns(questions)))
    chosen = samplings(questions, config.temperatures, config.top_k, config.top_p, config.seed)
    asked = list(zip(questions, chosen, strict=True))
    starts = range(0, len(questions), config.shard_questions)
    shards = [asked[start : start + config.shard_questions] for start in starts]
    with Journal(config.out / "run.jsonl", record_settings(config, questions, crew), SHARDS):
        missing = [number for number in range(len(shards)) if not shard_file(config.out, number).exists()]
        if missing:
            record_missing(work, shards, missing, load, crew)


def record_settings(config: RecordConfig, questions: Sequence[Question], crew: Crew | None = None) -> Record:
    """Everything that the traces depend on; `crew` as for `record`."""
    is_greedy = config.temperatures == GREEDY
    written, without = (GREEDY_FORMAT, SAMPLED) if is_greedy else (FORMAT, ())  # as when all was greedy
    settings = {**run_settings(config, questions, crew=crew), "format": written}
    if len(config.temperatures) > 1:  # before, they came in their own order, so such a folder is another's
        settings["turns"] = "drawn"
    return {name: value for name, value in settings.items() if name not in (*NOT_IN_SETTINGS, *without)}


def check_record_space(config: RecordConfig, answers: int) -> None:
    """Raises InputError if so many answers could take more space than there is, or than the config allows."""
    head = find_head(config.draft)
    each = bytes_per_position(config.width, config.depth, 0 if head is None else state_size(head))
    needed = answers * config.max_new_tokens * each / 1e9
    what = f"the traces of {answers} answers may need"
    check_space(config.out, needed, what, ("gigabytes", config.gigabytes), "questions")


def record_missing(
    config: RecordConfig,
    shards: Sequence[Sequence[tuple[Question, Sampling]]],
    missing: Sequence[int],
    load: Callable[..., Decoder],
    crew: Crew,
) -> None:
    """Has the crew record the missing shards, of questions and how they are answered, and writes them."""
    units = [asked for number in missing for asked in shards[number]]
    job = RecordJob(config, tuple(question for question, _ in units), load)
    turns = [sum(len(question.turns) for question, _ in shard) for shard in shards]
    done = sum(turns) - sum(turns[number] for number in missing)
    with tqdm(total=sum(turns), initial=done, unit="answer", desc="recording", mininterval=1) as progress:
        recorded = crew.do(job, units)
        for number in missing:
            generations = []
            for generation in islice(recorded, turns[number]):
                generations.append(generation)
                length = len(generation.tokens) - generation.prompt_length
                progress.set_postfix_str(f"{generation.task}, {length} tokens", refresh=False)
                progress.update()
            save_shard(shard_file(config.out, number), generations, config.width, config.depth)


def find_draft(decoder: Decoder, width: int = DEFAULT_WIDTH) -> Draft:
    """The draft to record trees of; raises InputError if there is none, or none of this beam width."""
    if decoder.draft is None:
        raise InputError("traces are of a draft's trees, and there is no draft; load one")
    return at_width(decoder.draft, width)


def record_question(
    decoder: Decoder, draft: Draft | None, question: Question, sampling: Sampling, config: RecordConfig
) -> Iterator[RecordedGeneration]:
    """The traces of every turn, each after the own answers to the turns before; see `record_answer`."""
    answers: list[list[int]] = []
    for turn in all_turns([question]):
        prompt = encode_turn(decoder, turn, answers)
        answer = decoder.generate(prompt, max_new_tokens=config.max_new_tokens, policy="none", **asdict(sampling))
        assert not isinstance(answer, list)
        answers.append(answer.token_ids)
        yield record_answer(decoder, draft, turn, prompt, answer.token_ids, sampling, config)


@torch.inference_mode()
def record_answer(
    decoder: Decoder,
    draft: Draft | None,
    turn: Turn,
    prompt: list[int],
    answer: list[int],
    sampling: Sampling,
    config: RecordConfig,
) -> RecordedGeneration:
    """Drafts at every position of one answer; without a draft, where the depth is -1, there is only its text."""
    tokens, positions = np.array(prompt + answer), len(answer) - 1
    starts = level_starts(config.width, config.depth + 1)
    candidates = np.zeros((positions, starts[-1]), dtype=np.int32)
    scores = np.zeros((positions, starts[-1]), dtype=np.float32)
    path = np.full((positions, config.depth + 1), -1, dtype=np.int16)
    states = np.zeros((positions, 0 if draft is None else draft.state_size), dtype=np.float16)
    drafting: Iterator[tuple[int, DraftTree]] = iter(())
    if draft is not None:
        drafting = draft_everywhere(decoder, draft, prompt + answer, len(prompt), config.depth, config.rows, sampling)
    for first, tree in drafting:
        block = slice(first, first + len(tree.roots))
        drafted = tree.tokens.cpu().numpy()
        candidates[block], scores[block] = drafted, tree.scores.cpu().numpy()
        if states.shape[1]:
            assert tree.root_states is not None
            states[block] = tree.root_states[:, 0].float().clamp(-LARGEST_STATE, LARGEST_STATE).cpu().numpy()
        following = continuations(tokens, len(prompt) + np.arange(positions)[block], config.depth + 1)
        path[block] = find_path(drafted, tree.parents.cpu().numpy(), following, starts)
    return RecordedGeneration(
        *turn.key,
        width=config.width,
        prompt_length=len(prompt),
        tokens=tokens.astype(np.int32),
        candidates=candidates,
        scores=scores,
        path=path,
        ranks=path_ranks(scores, path, config.width),
        states=states,
        sampling=sampling,
    )


def find_path(
    tokens: NDArray[np.int64], parents: NDArray[np.int32], following: NDArray[np.int64], starts: Sequence[int]
) -> NDArray[np.int16]:
    """The candidates along the target's continuation.

    Args:
        tokens, parents: (B, C), as in `DraftTree`.
        following: int64 (B, levels), the continuation; -1 where it is not known.
        starts: the first candidate of every level, and C.

    Returns:
        int16 (B, levels); -1 from the first level on that lacks the token below the path.
    """
    path: NDArray[np.int16] = np.full(following.shape, -1, dtype=np.int16)
    node = np.full(len(path), -1)  # the root, as the first level's candidates name it
    for level in range(len(starts) - 1):
        columns = slice(starts[level], starts[level + 1])
        match = (tokens[:, columns] == following[:, level, None]) & (parents[:, columns] == node[:, None])
        found = match.any(axis=1)
        path[found, level] = starts[level] + match[found].argmax(axis=1)
        node = np.where(found, path[:, level], -2)  # -2 is no candidate's parent
    return path
