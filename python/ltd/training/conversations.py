"""Making the data: the target writes conversations with itself, from nothing but its chat template.

Given the text that precedes a user turn, a chat model samples a plausible user turn (Xu et al., 2024, "Magpie"); it is
then asked to answer. No data from outside is needed, and the answers are what the draft has to predict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ltd.training.chat import ChatFormat
from ltd.training.config import TrainDraftConfig
from ltd.training.lockstep import ATTENTION_NAME, LockstepCache, next_logits, sample

TEMPLATE, USER, ANSWER = 0, 1, 2
LEAST_ROOM_FOR_A_TURN = 64  # tokens; a second turn that could hold less is not begun


@dataclass(slots=True)
class Conversation:
    """Token ids and, for each, the role (TEMPLATE, USER or ANSWER) it was written in; and where it is stored."""

    tokens: list[int]
    roles: list[int]
    shard: int = -1
    start: int = -1  # index of its first token in the shard

    def is_held_out(self, share: float) -> bool:
        """Whether this conversation is for measuring; depends on its text alone, so it never changes sides."""
        digest = hashlib.blake2b(repr(self.tokens).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < share * 2**64


class Writer:
    """One row of the batch: takes the target's tokens one by one and says which token comes next."""

    def __init__(self, chat: ChatFormat, config: TrainDraftConfig, greedy: bool, turns: int) -> None:
        self.chat, self.config = chat, config
        self.tokens = list(chat.prefix)
        self.roles = [TEMPLATE] * len(chat.prefix)
        self.role = USER
        self.turn_start = len(self.tokens)
        self.answers_greedily, self.turns = greedy, turns
        self.done = False

    @property
    def greedy(self) -> bool:
        return self.role == ANSWER and self.answers_greedily

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


def write_batch(
    model: PreTrainedModel, chat: ChatFormat, config: TrainDraftConfig, generator: torch.Generator, progress: tqdm[Any]
) -> list[Conversation]:
    """Let the target write `config.rows` conversations; empty ones are left out."""
    chances = torch.rand(config.rows, 2, generator=generator).tolist()
    writers = [
        Writer(chat, config, greedy < config.greedy_share, 2 if second < config.two_turn_share else 1)
        for greedy, second in chances
    ]
    everyone = writers
    cache = LockstepCache(model, config.rows, config.length + len(chat.to_answer) + len(chat.to_user))
    prefix = torch.tensor([list(chat.prefix)], device=model.device).expand(config.rows, -1)
    logits = next_logits(model, cache, prefix)
    while True:
        greedy = torch.tensor([writer.greedy for writer in writers], device=model.device)
        drawn = sample(logits, greedy, generator).tolist()
        for writer, token in zip(writers, drawn, strict=True):
            # Otherwise the template's own text comes next, or nothing.
            if not writer.done and len(writer.tokens) == cache.length:
                writer.accept(token)
        progress.update(sum(not writer.done for writer in writers))
        alive = [row for row, writer in enumerate(writers) if not writer.done]
        if not alive:
            return [conversation for writer in everyone if (conversation := writer.finished())]
        if len(alive) <= 0.9 * len(writers):  # compaction copies the cache, so it waits for a tenth to finish
            writers = [writers[row] for row in alive]
            cache.keep(torch.tensor(alive, device=model.device))
        tokens = [0 if writer.done else writer.tokens[cache.length] for writer in writers]
        logits = next_logits(model, cache, torch.tensor(tokens, device=model.device)[:, None])


def make_conversations(model: PreTrainedModel, chat: ChatFormat, config: TrainDraftConfig, folder: Path) -> None:
    """Write shards of conversations until they hold `config.tokens` tokens; existing shards are kept.

    A shard depends only on the config and its own number, so a run that was stopped goes on as if it had not been.
    """
    folder.mkdir(parents=True, exist_ok=True)
    implementation = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    total = tokens_written(folder)
    with tqdm(total=config.tokens, initial=total, unit="tok", desc="writing conversations", mininterval=1) as progress:
        while total < config.tokens:
            number = len(shard_files(folder))
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            conversations = write_batch(model, chat, config, generator, progress)
            total += sum(len(conversation.tokens) for conversation in conversations)
            progress.n = total
            _save_shard(conversations, folder / f"{number:05d}.safetensors")
    model.set_attn_implementation(implementation)


def tokens_written(folder: Path) -> int:
    """How many tokens the finished shards hold."""
    return sum(len(shard["tokens"]) for shard in map(load_file, shard_files(folder)))


def shard_files(folder: Path) -> list[Path]:
    """The finished shards, in order."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def load_conversations(folder: Path) -> list[Conversation]:
    """All conversations of a folder in the order they were written, repeated ones once."""
    seen: dict[tuple[int, ...], Conversation] = {}
    for number, file in enumerate(shard_files(folder)):
        for conversation in load_shard(file, number):
            seen.setdefault(tuple(conversation.tokens), conversation)
    return list(seen.values())


def load_shard(file: Path, number: int) -> list[Conversation]:
    """The conversations of one shard, repeated ones included."""
    shard = load_file(file)
    sizes = shard["sizes"].tolist()
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
    unfinished = file.with_suffix(".tmp")
    save_file(tensors, unfinished)
    unfinished.rename(file)
