"""What the head reads of the target, computed once and cached on disk, shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from ltd.errors import InputError
from ltd.training.conversations import Conversation, load_shard, shard_files

TOKENS_PER_FORWARD = 2048
BYTES_PER_VALUE = 2  # bfloat16


@contextmanager
def tapped(model: PreTrainedModel, layers: tuple[int, ...]) -> Iterator[Callable[[], Tensor]]:
    """While open, every forward's hs[k] of the given layers is kept; the yielded function concatenates them.

    hs[k] is the input of layer k, hs[N] the input of the final norm, so only what is asked for is held.
    """
    body = model.model
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept[layer] = inputs[0]

        return hook

    points = [*body.layers, body.norm]
    handles = [points[layer].register_forward_pre_hook(keep(layer)) for layer in set(layers)]
    try:
        yield lambda: torch.cat([kept[layer] for layer in layers], dim=-1)
    finally:
        for handle in handles:
            handle.remove()


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


def cache_features(model: PreTrainedModel, layers: tuple[int, ...], data: Path, folder: Path) -> None:
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
                save_file(_shard_features(model, layers, shard, progress), unfinished)
                unfinished.rename(file)
            else:
                progress.update(sum(len(conversation.tokens) for conversation in shard))


@torch.inference_mode()
def _shard_features(
    model: PreTrainedModel, layers: tuple[int, ...], shard: list[Conversation], progress: tqdm[Any]
) -> dict[str, Tensor]:
    size, width = sum(len(conversation.tokens) for conversation in shard), model.config.hidden_size
    out = {
        "features": torch.empty(size, width * len(layers), dtype=torch.bfloat16),
        "final": torch.empty(size, width, dtype=torch.bfloat16),
        "best": torch.empty(size, dtype=torch.int32),
    }
    with tapped(model, layers) as features:
        for batch in _by_length(shard):
            tokens = nn.utils.rnn.pad_sequence(
                [torch.tensor(conversation.tokens) for conversation in batch], batch_first=True
            )
            # Padding stands on the right, where causal attention keeps it out of everything that counts.
            final = model.model(tokens.to(model.device), use_cache=False).last_hidden_state
            for row, conversation in enumerate(batch):
                count = len(conversation.tokens)
                place = slice(conversation.start, conversation.start + count)
                out["features"][place] = features()[row, :count]
                out["final"][place] = final[row, :count]
                out["best"][place] = model.lm_head(final[row, :count]).argmax(-1)
            progress.update(sum(len(conversation.tokens) for conversation in batch))
    return out


def _by_length(shard: list[Conversation]) -> Iterator[list[Conversation]]:
    """Batches of similar length and at most TOKENS_PER_FORWARD tokens with padding."""
    batch: list[Conversation] = []
    for conversation in sorted(shard, key=lambda each: len(each.tokens)):
        if batch and len(conversation.tokens) * (len(batch) + 1) > TOKENS_PER_FORWARD:
            yield batch
            batch = []
        batch.append(conversation)
    if batch:
        yield batch


class FeatureReader:
    """Reads the features of single conversations from the cached files, which stay on disk."""

    def __init__(self, folder: Path) -> None:
        self._shards = [safe_open(file, framework="pt") for file in shard_files(folder)]

    def read(self, conversation: Conversation) -> dict[str, Tensor]:
        """`features` (n, F*Ht), `final` (n, Ht) and `best` (n,) of one conversation."""
        shard = self._shards[conversation.shard]
        end = conversation.start + len(conversation.tokens)
        return {name: shard.get_slice(name)[conversation.start : end] for name in ("features", "final", "best")}
