"""The conversations of a run as they are stored: shards of them, each of one kind of text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltd.common.shards import leading_shards, read_shard, write_shard
from ltd.errors import InputError
from ltd.training.data.conversation import ANSWER, Conversation
from ltd.training.data.mix import CHAT, KINDS, TextKind

SHARD = {"tokens": (torch.int32, 1), "roles": (torch.uint8, 1), "sizes": (torch.int32, 1)}


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What a finished shard holds: its kind of text, its tokens, and those of answers."""

    kind: TextKind
    tokens: int
    answer_tokens: int


def tokens_written(folder: Path) -> int:
    """How many tokens the finished shards hold."""
    return sum(shard.tokens for shard in written_shards(folder))


def written_shards(folder: Path) -> list[WrittenShard]:
    """What the finished shards hold, in order, up to one that is missing."""
    found = []
    for file in leading_shards(folder):
        shard = read_shard(file, SHARD)
        roles = shard["roles"]
        found.append(WrittenShard(_kind_of(shard, file), len(roles), int((roles == ANSWER).sum())))
    return found


def _kind_of(shard: dict[str, Tensor], file: Path) -> TextKind:
    """The one kind of text in a shard; those from before there were kinds have chats."""
    number = int(shard["kind"][0]) if "kind" in shard and shard["kind"].numel() else 0
    if not 0 <= number < len(KINDS):
        raise InputError(f"{file} holds text of kind {number}, which is not known; was it made by a newer version?")
    return KINDS[number]


def load_conversations(folder: Path) -> list[Conversation]:
    """All conversations of a folder in the order they were written, repeated questions once."""
    seen: dict[tuple[int, ...], Conversation] = {}
    for number, file in enumerate(leading_shards(folder)):
        for conversation in load_shard(file, number):
            seen.setdefault(conversation.question, conversation)
    return list(seen.values())


def load_shard(file: Path, number: int) -> list[Conversation]:
    """The conversations of one shard, repeated ones included."""
    shard = read_shard(file, SHARD, (("tokens", "roles"),))
    sizes = shard["sizes"].tolist()
    if sum(sizes) != len(shard["tokens"]) or min(sizes, default=0) < 0:
        raise InputError(f"{file} is damaged: its sizes do not fit its tokens; delete it, and run again")
    kind = KINDS.index(_kind_of(shard, file))
    parts = zip(shard["tokens"].split(sizes), shard["roles"].split(sizes), strict=True)
    conversations, start = [], 0
    for tokens, roles in parts:
        conversations.append(Conversation(tokens.tolist(), roles.tolist(), number, start, kind))
        start += len(tokens)
    return conversations


def save_shard(conversations: list[Conversation], file: Path, kind: TextKind = CHAT) -> None:
    """Writes a shard of conversations, all of one kind of text."""

    def flat(lists: Iterable[list[int]], dtype: torch.dtype) -> Tensor:
        return torch.tensor([value for values in lists for value in values], dtype=dtype)

    tensors = {
        "tokens": flat((conversation.tokens for conversation in conversations), torch.int32),
        "roles": flat((conversation.roles for conversation in conversations), torch.uint8),
        "sizes": torch.tensor([len(conversation.tokens) for conversation in conversations], dtype=torch.int32),
        "kind": torch.tensor([KINDS.index(kind)], dtype=torch.uint8),
    }
    write_shard(tensors, file)
