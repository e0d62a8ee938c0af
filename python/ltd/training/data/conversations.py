"""Making the data: the target writes conversations with itself, from nothing but its chat template.

Given the text that precedes a user turn, a chat model samples a plausible user turn (Xu et al., 2024, "Magpie"), some
after first words from `OPENINGS`; it is then asked to answer. No data from outside is needed, and the answers are what
the draft has to predict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ltd.common.shards import read_shard, shard_file, shard_files, write_shard
from ltd.engine.forward import Forward
from ltd.errors import InputError
from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import ChatFormat
from ltd.training.data.lockstep import Lockstep

TEMPLATE, USER, ANSWER = 0, 1, 2
SHARD = {"tokens": (torch.int32, 1), "roles": (torch.uint8, 1), "sizes": (torch.int32, 1)}
LEAST_ROOM_FOR_A_TURN = 64  # tokens; a second turn that could hold less is not begun


def learned_roles(user_turns: bool) -> tuple[int, ...]:
    """The roles whose tokens the head learns to predict."""
    return (USER, ANSWER) if user_turns else (ANSWER,)


@dataclass(slots=True)
class Conversation:
    """Token ids and, for each, the role (TEMPLATE, USER or ANSWER) it was written in; and where it is stored."""

    tokens: list[int]
    roles: list[int]
    shard: int = -1
    start: int = -1  # index of its first token in the shard

    @property
    def question(self) -> tuple[int, ...]:
        """The tokens up to the first answer."""
        return tuple(self.tokens[: self.roles.index(ANSWER)] if ANSWER in self.roles else self.tokens)

    def is_held_out(self, share: float) -> bool:
        """Whether this conversation is for measuring; depends on its question alone, so it never changes sides."""
        digest = hashlib.blake2b(repr(self.question).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < share * 2**64


class Writer:
    """One row of the batch: takes the target's tokens one by one and says which token comes next."""

    def __init__(
        self, chat: ChatFormat, config: TrainDraftConfig, greedy: bool, turns: int, opening: Sequence[int] = ()
    ) -> None:
        self.chat, self.config = chat, config
        self.tokens = [*chat.prefix, *opening]
        self.roles = [TEMPLATE] * len(chat.prefix) + [USER] * len(opening)
        self.role = USER
        self.turn_start = len(chat.prefix)
        self.answers_greedily, self.turns = greedy, turns
        self.done = False

    @property
    def temperature(self) -> float:
        """Of the next token; 0 = greedy."""
        if self.role == USER:
            return self.config.user_temperature
        return 0.0 if self.answers_greedily else 1.0

    def accept(self, token: int) -> None:
        """Take the token that the target wrote next."""
        config, written = self.config, len(self.tokens) - self.turn_start
        if self.role == USER:
            if token in self.chat.user_ends or written >= config.user_length:
                self._end_user_turn(written)
            else:
                self._append([token], USER)
            return
        self._append([token], ANSWER)
        if token in self.chat.answer_ends:
            self._end_answer()
        self.done = self.done or written + 1 >= config.answer_length or len(self.tokens) >= config.length

    def finished(self) -> Conversation | None:
        """The conversation up to its last answer, or None where there is none."""
        if ANSWER not in self.roles:
            return None
        end = len(self.roles) - self.roles[::-1].index(ANSWER)
        return Conversation(self.tokens[:end], self.roles[:end])

    def _append(self, tokens: Iterable[int], role: int) -> None:
        for token in tokens:
            self.tokens.append(token)
            self.roles.append(role)

    def _end_user_turn(self, written: int) -> None:
        if written == 0:
            self.done = True
            return
        self._append(self.chat.to_answer, TEMPLATE)
        self.role, self.turn_start = ANSWER, len(self.tokens)
        self.done = len(self.tokens) >= self.config.length

    def _end_answer(self) -> None:
        self.turns -= 1
        room = self.config.length - len(self.tokens) - len(self.chat.to_user)
        if self.turns == 0 or room < LEAST_ROOM_FOR_A_TURN:
            self.done = True
            return
        # The answer's last token is also the first of the text that follows, where the template has one there.
        follow = self.chat.to_user[1:] if self.tokens[-1] == self.chat.to_user[0] else self.chat.to_user
        self._append(follow, TEMPLATE)
        self.role, self.turn_start = USER, len(self.tokens)


def new_writers(chat: ChatFormat, config: TrainDraftConfig, generator: torch.Generator) -> list[Writer]:
    """The writers of one shard, with what chance decides about each."""
    chances = torch.rand(config.rows, 3, generator=generator).tolist()
    openings = torch.randint(max(1, len(chat.openings)), (config.rows,), generator=generator).tolist()
    return [
        Writer(
            chat,
            config,
            greedy=greedy < config.greedy_share,
            turns=2 if second < config.two_turn_share else 1,
            opening=chat.openings[opening] if chat.openings and opened < config.opening_share else (),
        )
        for (greedy, second, opened), opening in zip(chances, openings, strict=True)
    ]


def write_batch(
    forward: Forward, chat: ChatFormat, config: TrainDraftConfig, generator: torch.Generator, progress: tqdm[Any]
) -> list[Conversation]:
    """Let the target write `config.rows` conversations; empty ones are left out."""
    writers = everyone = new_writers(chat, config, generator)
    texts = Lockstep(forward, config.rows, config.length + len(chat.to_answer) + len(chat.to_user))
    logits = texts.append(torch.tensor([list(chat.prefix)] * config.rows, device=texts.device))
    while True:
        drawn = sample(logits, torch.tensor([writer.temperature for writer in writers]), generator).tolist()
        for writer, token in zip(writers, drawn, strict=True):
            # Otherwise an opening's or the template's own text comes next, or nothing.
            if not writer.done and len(writer.tokens) == texts.length:
                writer.accept(token)
        progress.update(sum(not writer.done for writer in writers))
        alive = [row for row, writer in enumerate(writers) if not writer.done]
        if not alive:
            return [conversation for writer in everyone if (conversation := writer.finished())]
        if len(alive) <= 0.9 * len(writers):  # rows are moved, so this waits for a tenth to finish
            rows = close_ranks(alive)
            writers = [writers[row] for row in rows]
            texts.keep(rows)
        tokens = [0 if writer.done else writer.tokens[texts.length] for writer in writers]
        logits = texts.append(torch.tensor(tokens, device=texts.device)[:, None])


def close_ranks(rows: list[int]) -> list[int]:
    """The rows (ascending) in an order in which as few as possible change places: the last fill the gaps."""
    staying = [row for row in rows if row < len(rows)]
    moving = iter(rows[len(staying) :])
    present = set(staying)
    return [place if place in present else next(moving) for place in range(len(rows))]


def sample(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """logits (rows,V), temperatures (rows,) float32, 0 = greedy -> tokens (rows,) int64.

    Draws by inverse CDF: one random number a row instead of one a word.
    """
    tokens = logits.max(-1).indices.cpu()  # much faster than argmax, and like it takes the first of equals
    warm = (temperatures > 0).nonzero()[:, 0]
    uniform = torch.rand(logits.size(0), 1, generator=generator)[warm].to(logits.device)
    chosen = logits[warm.to(logits.device)] / temperatures[warm, None].to(logits)
    cumulative = chosen.softmax(-1, dtype=torch.float32).cumsum(-1)
    # Rounding may leave the last sum a little under 1, so the uniform number is scaled by that sum.
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    tokens[warm] = drawn.clamp_max(logits.size(1) - 1).cpu()
    return tokens


def make_conversations(forward: Forward, chat: ChatFormat, config: TrainDraftConfig, folder: Path) -> None:
    """Write shards of conversations until they hold `config.tokens` tokens; existing shards are kept.

    A shard depends only on the config and its own number, so a run that was stopped goes on as if it had not been.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = tokens_written(folder)
    with tqdm(total=config.tokens, initial=total, unit="tok", desc="writing conversations", mininterval=1) as progress:
        while total < config.tokens:
            number = len(shard_files(folder))
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            conversations = write_batch(forward, chat, config, generator, progress)
            total += sum(len(conversation.tokens) for conversation in conversations)
            progress.n = total
            _save_shard(conversations, shard_file(folder, number))


def tokens_written(folder: Path) -> int:
    """How many tokens the finished shards hold."""
    return sum(len(read_shard(file, SHARD)["tokens"]) for file in shard_files(folder))


def load_conversations(folder: Path) -> list[Conversation]:
    """All conversations of a folder in the order they were written, repeated questions once."""
    seen: dict[tuple[int, ...], Conversation] = {}
    for number, file in enumerate(shard_files(folder)):
        for conversation in load_shard(file, number):
            seen.setdefault(conversation.question, conversation)
    return list(seen.values())


def load_shard(file: Path, number: int) -> list[Conversation]:
    """The conversations of one shard, repeated ones included."""
    shard = read_shard(file, SHARD, (("tokens", "roles"),))
    sizes = shard["sizes"].tolist()
    if sum(sizes) != len(shard["tokens"]) or min(sizes, default=0) < 0:
        raise InputError(f"{file} is damaged: its sizes do not fit its tokens; delete it, and run again")
    parts = zip(shard["tokens"].split(sizes), shard["roles"].split(sizes), strict=True)
    conversations, start = [], 0
    for tokens, roles in parts:
        conversations.append(Conversation(tokens.tolist(), roles.tolist(), number, start))
        start += len(tokens)
    return conversations


def _save_shard(conversations: list[Conversation], file: Path) -> None:
    def flat(lists: Iterable[list[int]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([value for values in lists for value in values], dtype=dtype)

    tensors = {
        "tokens": flat((conversation.tokens for conversation in conversations), torch.int32),
        "roles": flat((conversation.roles for conversation in conversations), torch.uint8),
        "sizes": torch.tensor([len(conversation.tokens) for conversation in conversations], dtype=torch.int32),
    }
    write_shard(tensors, file)
