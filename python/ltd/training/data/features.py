"""What the head reads of the target, computed once and cached on disk, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from ltd.common.shards import leading_shards, shard_file, write_shard
from ltd.common.workers import Crew
from ltd.engine.forward import Forward
from ltd.errors import InputError
from ltd.training.data.conversation import Conversation
from ltd.training.data.conversations import load_shard
from ltd.training.data.lockstep import read_states
from ltd.training.data.states import TYPES

BYTES_PER_VALUE = 2  # bfloat16
NAMES, TOTAL = ("features", "final", "best"), "total"  # of a shard's tensors; older ones lack the last


def gigabytes_of_features(width: int, layers: tuple[int, ...], tokens: int) -> float:
    """What the features of so many tokens of a target of this hidden size take on disk."""
    return tokens * (width * (len(layers) + 1) * BYTES_PER_VALUE + 8) / 1e9


@dataclass(frozen=True)
class FeatureJob:
    """Computes the features of shards.

    Attributes:
        open_target: gives what runs the target, once in each worker.
        layers: the hidden states hs[k] that are features.
        files: see `ltd.common.workers.Job`.
    """

    open_target: Callable[[], Forward]
    layers: tuple[int, ...]
    files: Sequence[Path] = ()

    def open(self) -> Callable[[list[list[int]]], Iterator[int | dict[str, Tensor]]]:
        """What computes the features of texts: it tells the tokens of each, and at last the tensors of all."""
        forward = self.open_target()
        return lambda texts: _shard_features(forward, self.layers, texts)


def cache_features(job: FeatureJob, data: Path, folder: Path, crew: Crew) -> None:
    """Write one feature file per data shard; existing ones are kept.

    Each holds, for the shard's n tokens: `features` (n, F*Ht) and `final` (n, Ht) bfloat16, the latter after the final
    norm, `best` (n,) int32, the target's most likely next token, and `total` (n,) float32, the logarithm of the sum of
    exponentials of all its logits.
    """
    shards = [load_shard(file, number) for number, file in enumerate(leading_shards(data))]
    texts = [[conversation.tokens for conversation in shard] for shard in shards]
    sizes = [sum(map(len, shard)) for shard in texts]
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(len(shards)) if not shard_file(folder, number).exists()]
    done = sum(sizes) - sum(sizes[number] for number in missing)
    with tqdm(total=sum(sizes), initial=done, unit="tok", desc="caching features", mininterval=1) as progress:
        written = iter(missing)
        for news in crew.do(job, [texts[number] for number in missing]):
            if isinstance(news, int):
                progress.update(news)
            else:
                write_shard(news, shard_file(folder, next(written)))


def features_cached(data: Path, folder: Path) -> bool:
    """Whether every data shard has its file."""
    return len(leading_shards(data)) <= len(leading_shards(folder))


def _shard_features(
    forward: Forward, layers: tuple[int, ...], texts: list[list[int]]
) -> Iterator[int | dict[str, Tensor]]:
    found = {}
    for index, states in read_states(forward, texts, layers):
        found[index] = {name: kept.cpu() for name, kept in states.items()}
        yield len(texts[index])
    yield {name: torch.cat([found[index][name] for index in range(len(texts))]) for name in TYPES}


class Reads(Protocol):
    """Where the features of conversations come from."""

    def read_all(self, conversations: Sequence[Conversation]) -> list[dict[str, Tensor]]:
        """`features` (n, F*Ht), `final` (n, Ht), `best` (n,) and, where it is known, `total` (n,) of each."""


class LiveFeatures:
    """Makes the features anew, by the target, which stays as it is."""

    def __init__(self, forward: Forward, layers: tuple[int, ...]) -> None:
        self.forward, self.layers = forward, layers

    def read_all(self, conversations: Sequence[Conversation]) -> list[dict[str, Tensor]]:
        """See `Reads`; on the target's device."""
        texts = [conversation.tokens for conversation in conversations]
        found = dict(read_states(self.forward, texts, self.layers))
        return [found[index] for index in range(len(texts))]


class FeatureReader:
    """Reads the features of single conversations from the cached files, which stay on disk."""

    def __init__(self, folder: Path) -> None:
        self._shards = []
        for file in leading_shards(folder):
            try:
                shard = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file} cannot be read: {error}; delete it, and run again") from error
            if missing := set(NAMES) - set(shard.keys()):
                raise InputError(f"{file} is damaged: it lacks {', '.join(sorted(missing))}; delete it, and run again")
            self._shards.append(shard)

    def read_all(self, conversations: Sequence[Conversation]) -> list[dict[str, Tensor]]:
        """See `Reads`."""
        return [self.read(conversation) for conversation in conversations]

    def read(self, conversation: Conversation) -> dict[str, Tensor]:
        """`features` (n, F*Ht), `final` (n, Ht), `best` (n,) and, where known, `total` (n,) of one conversation."""
        shard = self._shards[conversation.shard]
        end = conversation.start + len(conversation.tokens)
        names = [name for name in (*NAMES, TOTAL) if name in shard.keys()]  # noqa: SIM118
        return {name: shard.get_slice(name)[conversation.start : end] for name in names}
