"""What the head reads of the target, computed once and cached on disk, shard by shard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ltd.errors import InputError
from ltd.training.conversations import Conversation, load_shard, shard_files
from ltd.training.forwards import Forwards, States

BYTES_PER_VALUE = 2  # bfloat16


def check_space(
    model: PreTrainedModel, layers: tuple[int, ...], tokens: int, folder: Path, most_gigabytes: float
) -> None:
    """Raise InputError if the features of this many tokens exceed `most_gigabytes` or do not fit on the disk."""
    width: int = model.config.hidden_size
    needed = tokens * (width * (len(layers) + 1) * BYTES_PER_VALUE + 4) / 1e9
    what = f"the features of {tokens} tokens need {needed:.3g} GB"
    if needed > most_gigabytes:
        raise InputError(f"{what}, but cache_gigabytes is {most_gigabytes:g}; raise it or ask for fewer tokens")
    kept = sum(file.stat().st_size for file in shard_files(folder)) / 1e9
    free = shutil.disk_usage(folder.parent).free / 1e9
    if needed - kept > free:
        raise InputError(f"{what}, but the disk has only {free:.3g} GB left; free some or ask for fewer tokens")


def cache_features(forwards: Forwards, layers: tuple[int, ...], data: Path, folder: Path) -> None:
    """Write one feature file per data shard; existing ones are kept.

    Each holds, for the shard's n tokens: `features` (n, F*Ht) and `final` (n, Ht) bfloat16, the latter after the final
    norm, and `best` (n,) int32, the target's most likely next token.
    """
    shards = [load_shard(file, number) for number, file in enumerate(shard_files(data))]
    total = sum(len(conversation.tokens) for shard in shards for conversation in shard)
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=total, unit="tok", desc="caching features", mininterval=1) as progress:
        for number, shard in enumerate(shards):
            file = folder / f"{number:05d}.safetensors"
            if not file.exists():
                unfinished = file.with_suffix(".tmp")
                save_file(_shard_features(forwards, layers, shard, progress), unfinished)
                unfinished.rename(file)
            else:
                progress.update(sum(len(conversation.tokens) for conversation in shard))


def features_cached(data: Path, folder: Path) -> bool:
    """Whether every data shard has its file."""
    return len(shard_files(data)) == len(shard_files(folder))


def _shard_features(
    forwards: Forwards, layers: tuple[int, ...], shard: list[Conversation], progress: tqdm[Any]
) -> dict[str, Tensor]:
    texts = [conversation.tokens for conversation in shard]
    found: list[States | None] = [None] * len(texts)
    for index, states in forwards.states(texts, layers):
        found[index] = states
        progress.update(len(texts[index]))
    every = [states for states in found if states is not None]
    return {
        "features": torch.cat([states.features.to("cpu", torch.bfloat16) for states in every]),
        "final": torch.cat([states.final.to("cpu", torch.bfloat16) for states in every]),
        "best": torch.cat([states.best.cpu() for states in every]),
    }


class FeatureReader:
    """Reads the features of single conversations from the cached files, which stay on disk."""

    def __init__(self, folder: Path) -> None:
        self._shards = [safe_open(file, framework="pt") for file in shard_files(folder)]

    def read(self, conversation: Conversation) -> dict[str, Tensor]:
        """`features` (n, F*Ht), `final` (n, Ht) and `best` (n,) of one conversation."""
        shard = self._shards[conversation.shard]
        end = conversation.start + len(conversation.tokens)
        return {name: shard.get_slice(name)[conversation.start : end] for name in ("features", "final", "best")}
