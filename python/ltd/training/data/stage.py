"""The first stages of a training, conversations and features, with a target whose weights may be packed."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

import torch

from ltd.common.shards import shard_file, space_for
from ltd.engine.attention import attend_in_lockstep
from ltd.engine.forward import Forward
from ltd.target.model import LoadedModel, load_model, stop_token_ids
from ltd.target.opening import open_forward
from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import read_chat_format
from ltd.training.data.conversations import load_shard, make_conversations, tokens_written
from ltd.training.data.features import (
    FeatureReader,
    LiveFeatures,
    Reads,
    cache_features,
    features_cached,
    gigabytes_of_features,
)
from ltd.training.data.floor import LockstepFloor, machine_rates
from ltd.training.data.lockstep import read_states
from ltd.training.data.writing_rates import WritingRates

TEXTS_TIMED = 16
SHARE_OF_DISK = 0.8  # of what is free, for features, where nobody said how many tokens there shall be


class DataStage:
    """Makes what a draft is trained on, in the folder of a run; all that is finished is kept.

    Args:
        target: with its weights, which stay as they are.
        layers: the hidden states hs[k] that are features.
    """

    def __init__(
        self, config: TrainDraftConfig, out: Path, target: LoadedModel, dtype: torch.dtype, layers: tuple[int, ...]
    ) -> None:
        self.config, self.out, self.target, self.dtype, self.layers = config, out, target, dtype, layers
        self.data, self.features = out / "data", out / "features"

    @cached_property
    def forward(self) -> Forward:
        """What runs the target; opened only where something is left to do."""
        model = self.target.model
        if model.device.type == "cpu":
            # A copy, because packed weights cannot be read back.
            model = load_model(self.config.target, self.dtype, model.device).model
        return open_forward(model, takes_weights=True, attention=attend_in_lockstep)

    def write(self, tokens: int) -> None:
        """Conversations, until there are so many tokens."""
        if tokens_written(self.data) >= tokens:
            return
        model = self.target.model
        chat = read_chat_format(self.target.tokenizer, stop_token_ids(model, self.target.tokenizer))
        floor = LockstepFloor.of(model.config, self.dtype, machine_rates(model.device, self.dtype))
        make_conversations(self.forward, chat, self.config, self.data, tokens, floor)

    def cache(self) -> None:
        """The features of all conversations, if they are kept."""
        if self.config.caches_features and not features_cached(self.data, self.features):
            cache_features(self.forward, self.layers, self.data, self.features)

    def reader(self) -> Reads:
        """Where features come from."""
        if self.config.caches_features:
            return FeatureReader(self.features)
        return LiveFeatures(self.forward, self.layers)

    def writing_seconds(self) -> float:
        """Seconds per token of writing; a shard is written where none was timed."""
        while not WritingRates(self.out).shards:
            self.write(tokens_written(self.data) + 1)
        return WritingRates(self.out).seconds_per_token

    def reading_seconds(self) -> float:
        """Seconds per token of caching features, on a part of the first shard; 0 where they are not kept."""
        if not self.config.caches_features:
            return 0.0
        texts = [each.tokens for each in load_shard(shard_file(self.data, 0), 0)[: 2 * TEXTS_TIMED]]
        for part in (texts[:TEXTS_TIMED], texts[TEXTS_TIMED:] or texts):  # the first warms up
            started = time.perf_counter()
            for _ in read_states(self.forward, part, self.layers):
                pass
        return (time.perf_counter() - started) / max(1, sum(map(len, part)))

    def gigabytes(self, tokens: int) -> float:
        """What the features of so many tokens take on disk; 0 where they are not kept."""
        width = self.target.model.config.hidden_size
        return gigabytes_of_features(width, self.layers, tokens) if self.config.caches_features else 0.0

    def most_tokens(self) -> int | None:
        """How many tokens' features there is space for; None where they are not kept."""
        if not self.config.caches_features:
            return None
        space = min(self.config.cache_gigabytes, SHARE_OF_DISK * space_for(self.features))
        return int(space / self.gigabytes(1))
