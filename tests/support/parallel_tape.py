"""Both sides of a run in one process: what the first says is kept, and done by the other afterwards.

A model that is not spread is its own part, so what the two come to can be compared bit for bit.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.parallel.follower import FollowingProcess
from ltd.parallel.leader import Leader
from ltd.target.target import Target

CPU = torch.device("cpu")


class Tape:
    """In the place of `Peers`: keeps what is said until somebody listens."""

    count, is_first, device = 2, True, CPU

    def __init__(self) -> None:
        self.said: list[tuple[bytes, list[Tensor]]] = []

    def say(self, message: Any, tensors: Any = ()) -> None:
        self.said.append((pickle.dumps(message), [tensor.clone() for tensor in tensors]))

    def hear(self) -> tuple[Any, list[Tensor]]:
        content, tensors = self.said.pop(0)
        return pickle.loads(content), tensors

    @property
    def kinds(self) -> list[str]:
        return [pickle.loads(content)[0] for content, _ in self.said]


def whole_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def led(tape: Tape) -> Leader:
    leader: Any = Leader
    made: Leader = leader(tape)
    return made


def following(tape: Tape) -> FollowingProcess:
    follower: Any = FollowingProcess
    made: FollowingProcess = follower(tape)
    return made


def caches_of(target: Target) -> dict[int, Any]:
    """The first process's caches that wait for their next use, by number."""
    free: Any = target.pool._free
    return {cache.number: cache for cache in free}
