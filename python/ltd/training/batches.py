"""From conversations to batches, in an order that depends on nothing but the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ltd.training.conversations import ANSWER, USER, Conversation
from ltd.training.features import FeatureReader

BATCHES_PER_BUCKET = 16  # batches that are filled together by length; more: less padding, less mixing


@dataclass(slots=True)
class Batch:
    """A padded batch; T is the longest conversation.

    tokens (B,T) int64; learned (B,T) bool, whether a token is to be predicted; features (B,T,F*Ht) and final (B,T,Ht)
    bfloat16; best (B,T) int64, the target's most likely token after each.
    """

    tokens: Tensor
    learned: Tensor
    features: Tensor
    final: Tensor
    best: Tensor


def epoch_order(sizes: Sequence[int], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of indices of one epoch: shuffled, but of similar size within a batch."""
    shuffler = random.Random(f"{seed} {epoch}")
    indices = list(range(len(sizes)))
    shuffler.shuffle(indices)
    batches = []
    for start in range(0, len(indices), batch * BATCHES_PER_BUCKET):
        bucket = sorted(indices[start : start + batch * BATCHES_PER_BUCKET], key=lambda index: sizes[index])
        batches += [bucket[first : first + batch] for first in range(0, len(bucket), batch)]
    shuffler.shuffle(batches)
    return batches


def load_batch(
    conversations: Sequence[Conversation], reader: FeatureReader, *, user_turns: bool, device: torch.device
) -> Batch:
    """Read and pad conversations; padding is never learned."""
    read = [reader.read(conversation) for conversation in conversations]
    roles = (USER, ANSWER) if user_turns else (ANSWER,)

    def padded(parts: list[Tensor]) -> Tensor:
        return pad_sequence(parts, batch_first=True).to(device)

    return Batch(
        tokens=padded([torch.tensor(conversation.tokens) for conversation in conversations]),
        learned=padded([torch.tensor([role in roles for role in each.roles]) for each in conversations]),
        features=padded([part["features"] for part in read]),
        final=padded([part["final"] for part in read]),
        best=padded([part["best"].long() for part in read]),
    )
