"""From conversations to batches, in an order that depends on nothing but the seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ltd.errors import InputError
from ltd.training.data.conversation import Conversation, learned_roles
from ltd.training.data.features import Reads

# Matrix libraries make a kernel for every new shape, so there should be few.
ROUND_TO = 64
WINDOW = 16


@dataclass(slots=True)
class Batch:
    """Conversations, one behind the other; n tokens in all.

    tokens (n,) int64; learned (n,) bool, whether a token is to be predicted; features (n,F*Ht) and final (n,Ht)
    bfloat16; best (n,) int64, the target's most likely token after each; sizes: tokens of every conversation;
    total (n,) float32: the logarithm of the sum of the target's exponentials over all its words, where it is known.
    """

    tokens: Tensor
    learned: Tensor
    features: Tensor
    final: Tensor
    best: Tensor
    sizes: list[int]
    total: Tensor | None = None

    @property
    def totals(self) -> Tensor:
        """`total`; raises InputError where the features are older than it."""
        if self.total is None:
            raise InputError("the cached features lack what the loss weighed needs; delete the folder features/")
        return self.total

    @property
    def positions(self) -> Tensor:
        """Every token's place in its conversation (n,) int64."""
        return torch.cat([torch.arange(size, device=self.tokens.device) for size in self.sizes])

    def conversations(self) -> list[Batch]:
        """Each conversation as a batch of its own."""
        tensors = (self.tokens, self.learned, self.features, self.final, self.best)
        parts = zip(*(x.split(self.sizes) for x in tensors), strict=True)
        totals: Sequence[Tensor | None] = [None] * len(self.sizes)
        if self.total is not None:
            totals = self.total.split(self.sizes)
        return [
            Batch(tokens, learned, features, final, best, [len(tokens)], total)
            for (tokens, learned, features, final, best), total in zip(parts, totals, strict=True)
        ]

    def ahead(self, x: Tensor, by: int) -> Tensor:
        """x (n,) of the tokens `by` places further on; 0 (False) behind the end of a conversation."""
        out = torch.zeros_like(x)
        for part, moved in zip(x.split(self.sizes), out.split(self.sizes), strict=True):
            moved[: max(0, len(part) - by)] = part[by:]
        return out


def epoch_order(work: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of the indices of `work`, shuffled, for one epoch.

    Those of a batch are as much work, because the conversations of a batch are computed side by side and wait for the
    last: every `WINDOW` batches' indices are sorted among each other. Batches come in any order.
    """
    count, chance = len(work), random.Random(f"{seed} {epoch}")
    indices, step = list(range(count)), WINDOW * batch
    chance.shuffle(indices)
    windows = [indices[first : first + step] for first in range(0, count, step)]
    indices = [index for window in windows for index in sorted(window, key=lambda index: work[index])]
    batches = [indices[first : first + batch] for first in range(0, count, batch)]
    chance.shuffle(batches)
    return batches


def load_batch(
    conversations: Sequence[Conversation], reader: Reads, *, user_turns: bool, device: torch.device
) -> Batch:
    """Conversations with their features; each is filled up to a multiple of `ROUND_TO`."""
    read = reader.read_all(conversations)
    roles = learned_roles(user_turns)

    def joined(parts: Iterable[Tensor]) -> Tensor:
        filled = [functional.pad(part, (0, 0) * (part.dim() - 1) + (0, -len(part) % ROUND_TO)) for part in parts]
        return torch.cat(filled).to(device)

    known = all("total" in part for part in read)  # older features lack it

    return Batch(
        tokens=joined(torch.tensor(each.tokens) for each in conversations),
        learned=joined(torch.tensor([role in roles for role in each.roles]) for each in conversations),
        features=joined(part["features"] for part in read),
        final=joined(part["final"] for part in read),
        best=joined(part["best"].long() for part in read),
        sizes=[-(-len(each.tokens) // ROUND_TO) * ROUND_TO for each in conversations],
        total=joined(part["total"] for part in read) if known else None,
    )
