"""Making the data: the target writes conversations with itself, from nothing but its chat template.

Given the text that precedes a user turn, a chat model samples a plausible user turn (Xu et al., 2024, "Magpie"), some
after first words from `OPENINGS`; other prompts hold text of its own earlier answers, see `ltd.training.data.mix`. It
is then asked to answer. No data from outside is needed, and the answers are what the draft has to predict.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ltd.common.shards import shard_file, write_shard
from ltd.common.workers import Crew
from ltd.engine.forward import Forward
from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import ChatFormat
from ltd.training.data.conversation import ANSWER, Conversation
from ltd.training.data.conversations import WrittenShard, load_shard, save_shard, written_shards
from ltd.training.data.floor import LockstepFloor, machine_rates
from ltd.training.data.given_texts import GivenTexts
from ltd.training.data.lockstep import TOKENS_PER_FORWARD, Lockstep
from ltd.training.data.mix import TextKind, furthest_behind
from ltd.training.data.writers import Sheet, new_sheet, new_writers, shared_tokens
from ltd.training.data.writing_rates import ShardRate, WritingRates

SHARDS_GIVEN = 8  # of earlier shards whose answers are given in one shard's prompts


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What is to be written into a shard.

    Attributes:
        number: its place among the shards.
        kind: of text.
        texts: that its prompts hold, where the kind has any.
    """

    number: int
    kind: TextKind
    texts: GivenTexts | None


@dataclass(frozen=True, slots=True)
class Written:
    """The conversations of a shard, what they took and could take at least, and their features, where they are kept."""

    kind: TextKind
    conversations: list[Conversation]
    seconds: float
    least_seconds: float
    features: dict[str, Tensor] | None = None

    @property
    def summary(self) -> WrittenShard:
        """What the shard holds."""
        answers = sum(each.roles.count(ANSWER) for each in self.conversations)
        return WrittenShard(self.kind, sum(len(each.tokens) for each in self.conversations), answers)

    @property
    def rate(self) -> ShardRate:
        """How fast it was written."""
        return ShardRate(self.kind.name, self.summary.tokens, self.seconds, self.least_seconds)


@dataclass(frozen=True)
class WritingJob:
    """Writes shards with a target; each depends on nothing but the config and its plan.

    Attributes:
        open_target: gives what runs the target, once in each worker.
        chat, config: of the run.
        dtype: of the target's weights.
        layers: the hidden states hs[k] that are features; None where none are kept.
        files: see `ltd.common.workers.Job`.
    """

    open_target: Callable[[], Forward]
    chat: ChatFormat
    config: TrainDraftConfig
    dtype: torch.dtype
    layers: tuple[int, ...] | None = None
    files: Sequence[Path] = ()

    def open(self) -> Callable[[ShardPlan], Iterator[int | Written]]:
        """What writes a shard: after each forward it tells how many tokens more there are, at last what it wrote."""
        forward = self.open_target()
        floor = LockstepFloor.of(forward.config, self.dtype, machine_rates(forward.device, self.dtype))

        def write(plan: ShardPlan) -> Iterator[int | Written]:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + plan.number)
            sheet, started = new_sheet(plan.kind, self.chat, self.config, generator), time.perf_counter()
            length = sheet.length + len(self.chat.to_answer) + len(self.chat.to_user)
            texts = Lockstep(forward, sheet.rows, length, floor, self.layers)
            found = yield from write_batch(texts, self.chat, self.config, generator, sheet, plan.texts)
            sizes = {row: len(conversation.tokens) for row, conversation in found.items()}
            features = None if texts.states is None else texts.states.joined(sizes)
            seconds = time.perf_counter() - started
            yield Written(plan.kind, list(found.values()), seconds, texts.least_seconds, features)

        return write


def make_conversations(job: WritingJob, folder: Path, features: Path, tokens: int, crew: Crew) -> None:
    """Write shards of conversations until they hold so many tokens; existing shards are kept, and missing ones made.

    Their features go into the folder `features`, where the job keeps any: made while the text is written they cost no
    forward of their own.

    Every shard is of one kind of text, the one that lacks most of its share of the answer tokens. It depends on nothing
    but the config and the shards before it, of which `shards_at_once` at a time know nothing of each other. The rate of
    every shard is printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards, rates = written_shards(folder), WritingRates(folder.parent)
    total = sum(shard.tokens for shard in shards)
    with tqdm(total=tokens, initial=total, unit="tok", desc="writing conversations", mininterval=1) as progress:
        while total < tokens:
            plans = plan_shards(job.config, job.chat, folder, shards)
            plans = [plan for plan in plans if not shard_file(folder, plan.number).exists()]
            numbers = iter(plan.number for plan in plans)
            for news in crew.do(job, plans):
                if isinstance(news, int):
                    progress.update(news)
                    continue
                number = next(numbers)
                if news.features is not None:  # before the text, which says that the shard is finished
                    features.mkdir(exist_ok=True)
                    write_shard(news.features, shard_file(features, number))
                save_shard(news.conversations, shard_file(folder, number), news.kind)
                is_behind = shard_file(folder, number + 1).exists()  # this one was missing: those behind it count again
                shards = written_shards(folder) if is_behind else [*shards, news.summary]
                total = sum(shard.tokens for shard in shards)
                progress.n = total
                rates.add(number, news.rate)
                progress.write(f"shard {number}: {news.rate}")
                if total >= tokens:
                    break


def plan_shards(
    config: TrainDraftConfig, chat: ChatFormat, folder: Path, shards: Sequence[WrittenShard]
) -> list[ShardPlan]:
    """The shards that come after the finished ones and can be written at the same time.

    They are what is left of a round of `shards_at_once`, whose shards know only those of earlier rounds. That each of
    them will have as many answer tokens as the others had in the mean is how the round's kinds are chosen.
    """
    first = len(shards) // config.shards_at_once * config.shards_at_once
    known = shards[:first]
    answers: dict[str, float] = {}
    for shard in known:
        answers[shard.kind.name] = answers.get(shard.kind.name, 0) + shard.answer_tokens
    expected = sum(shard.answer_tokens for shard in known) / len(known) if known else 1
    plans = []
    for number in range(first, first + config.shards_at_once):
        plans.append(_plan_shard(config, chat, folder, known, answers, number))
        name = plans[-1].kind.name
        answers[name] = answers.get(name, 0) + expected
    return plans[len(shards) - first :]


def _plan_shard(
    config: TrainDraftConfig, chat: ChatFormat, folder: Path, known: Sequence[WrittenShard],
    answers: Mapping[str, float], number: int,
) -> ShardPlan:  # fmt: skip
    """The kind of a shard, and the texts that its prompts hold, by the answer tokens of every kind and known shards."""
    chance = random.Random(f"{config.seed} {number}")
    for kind in furthest_behind(config.shares, answers):
        if kind.given == "nothing":
            return ShardPlan(number, kind, None)
        sources = [place for place, shard in enumerate(known) if shard.kind.given == "nothing"]
        sources = chance.sample(sources, min(SHARDS_GIVEN, len(sources)))
        loaded = (each for place in sorted(sources) for each in load_shard(shard_file(folder, place), place))
        # What is held out is nobody's prompt: there it would be read, or with `user_turns` learned.
        known_texts = (each for each in loaded if not each.is_held_out(config.held_out_share))
        texts = GivenTexts(chat, (own_words(answer, chat) for each in known_texts for answer in each.answers()), chance)
        if texts.enough_for(kind):
            return ShardPlan(number, kind, texts)
    raise AssertionError("parse_mix lets no mix through that has only kinds about given text")


def own_words(answer: list[int], chat: ChatFormat) -> list[int]:
    """An answer without the token that ends it."""
    return answer[:-1] if answer[-1] in chat.answer_ends else answer


def write_batch(
    texts: Lockstep, chat: ChatFormat, config: TrainDraftConfig, generator: torch.Generator, sheet: Sheet,
    given: GivenTexts | None,
) -> Generator[int, None, dict[int, Conversation]]:  # fmt: skip
    """Let the target write the conversations of a sheet into empty texts: those that are not empty, by their row.

    After every forward it tells how many tokens more there are.
    """
    writers = everyone = new_writers(chat, config, sheet, given, generator)
    shared = shared_tokens(writers, chat, sheet.kind)
    prompts = torch.tensor([writer.tokens[:shared] for writer in writers], device=texts.device)
    for part in prompts.split(max(1, TOKENS_PER_FORWARD // sheet.rows), dim=1):
        logits, best = texts.append(part)
    while True:
        drawn = sample(logits, best, torch.tensor([writer.temperature for writer in writers]), generator).tolist()
        for writer, token in zip(writers, drawn, strict=True):
            # Otherwise what is given or the template's own text comes next, or nothing.
            if not writer.done and len(writer.tokens) == texts.length:
                writer.accept(token)
        yield sum(not writer.done for writer in writers)
        alive = [row for row, writer in enumerate(writers) if not writer.done]
        if not alive:
            finished = enumerate(writer.finished() for writer in everyone)
            return {row: conversation for row, conversation in finished if conversation}
        if len(alive) <= 0.9 * len(writers):  # rows are moved, so this waits for a tenth to finish
            rows = close_ranks(alive)
            writers = [writers[row] for row in rows]
            texts.keep(rows)
        tokens = [0 if writer.done else writer.tokens[texts.length] for writer in writers]
        logits, best = texts.append(torch.tensor(tokens, device=texts.device)[:, None])


def close_ranks(rows: list[int]) -> list[int]:
    """The rows (ascending) in an order in which as few as possible change places: the last fill the gaps."""
    staying = [row for row in rows if row < len(rows)]
    moving = iter(rows[len(staying) :])
    present = set(staying)
    return [place if place in present else next(moving) for place in range(len(rows))]


def sample(logits: Tensor, best: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """logits (rows,V), the most likely (rows,), temperatures (rows,) float32, 0 = greedy -> tokens (rows,) int64.

    Draws by inverse CDF: one random number a row instead of one a word.
    """
    tokens = best.to("cpu", copy=True)
    warm = (temperatures > 0).nonzero()[:, 0]
    uniform = torch.rand(logits.size(0), 1, generator=generator)[warm].to(logits.device)
    chosen = logits[warm.to(logits.device)] / temperatures[warm, None].to(logits)
    cumulative = chosen.softmax(-1, dtype=torch.float32).cumsum(-1)
    # Rounding may leave the last sum a little under 1, so the uniform number is scaled by that sum.
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    tokens[warm] = drawn.clamp_max(logits.size(1) - 1).cpu()
    return tokens
