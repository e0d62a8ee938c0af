"""The first stages of a training, conversations and features, with a target whose weights may be packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ltd.common.shards import space_for
from ltd.common.workers import Crew, absolute, local_paths
from ltd.engine.attention import attend_in_lockstep
from ltd.engine.forward import Forward
from ltd.errors import InputError
from ltd.target.model import LoadedModel, load_model
from ltd.target.opening import open_forward
from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import chat_format_of
from ltd.training.data.conversations import tokens_written
from ltd.training.data.features import (
    FeatureJob,
    FeatureReader,
    LiveFeatures,
    Reads,
    cache_features,
    features_cached,
    gigabytes_of_features,
)
from ltd.training.data.writing import WritingJob, make_conversations
from ltd.training.data.writing_rates import WritingRates

SHARE_OF_DISK = 0.8  # of what is free, for features, where nobody said how many tokens there shall be


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """What runs a target, by its name: for workers on other machines.

    Attributes:
        name, dtype, device: as `ltd.target.model.load_model` takes them.
    """

    name: str | None
    dtype: torch.dtype
    device: str

    def __call__(self) -> Forward:
        """Loads it."""
        return open_in_lockstep(load_model(self.name, self.dtype, torch.device(self.device)))


def open_in_lockstep(target: LoadedModel) -> Forward:
    """What runs a target for many conversations at a time; its weights are taken over."""
    return open_forward(target.model, takes_weights=True, attention=attend_in_lockstep)


class DataStage:
    """Makes what a draft is trained on, in the folder of a run; all that is finished is kept.

    Args:
        target: with its weights, which stay as they are.
        layers: the hidden states hs[k] that are features.
        crew: who writes conversations and computes features.
    """

    def __init__(
        self, config: TrainDraftConfig, out: Path, target: LoadedModel, dtype: torch.dtype, layers: tuple[int, ...],
        crew: Crew,
    ) -> None:  # fmt: skip
        self.config, self.out, self.target, self.dtype, self.layers = config, out, target, dtype, layers
        self.crew = crew
        self.data, self.features = out / "data", out / "features"

    @cached_property
    def forward(self) -> Forward:
        """What runs the target; opened only where something is left to do."""
        device = self.target.model.device
        # On a processor a copy, because packed weights cannot be read back.
        return open_in_lockstep(
            load_model(self.config.target, self.dtype, device) if device.type == "cpu" else self.target
        )

    @property
    def open_target(self) -> Callable[[], Forward]:
        """What gives it to a worker, in this process or on another machine."""
        if not self.crew.is_remote:
            return lambda: self.forward
        return NamedTarget(absolute(self._target_name), self.dtype, self.target.model.device.type)

    @property
    def _target_name(self) -> str | None:
        return None if self.config.target is None else str(self.config.target)

    @cached_property
    def writing(self) -> WritingJob:
        """What writes."""
        layers = self.layers if self.config.caches_features else None
        files = local_paths(self._target_name)
        return WritingJob(self.open_target, chat_format_of(self.target), self.config, self.dtype, layers, files)

    def write(self, tokens: int) -> None:
        """Conversations, until there are so many tokens, and their features, if they are kept."""
        if tokens_written(self.data) >= tokens:
            return
        if self.crew.is_remote and self.config.shards_at_once == 1:
            raise InputError(
                "with --ray, shards_at_once says how many shards workers may write at the same time; what is written "
                "depends on it, not on the workers, so give at least as many as there will be, --shards-at-once 8 say"
            )
        make_conversations(self.writing, self.data, self.features, tokens, self.crew)

    def cache(self) -> None:
        """The features that are missing, if they are kept: such as were deleted, or made by another version."""
        if self.config.caches_features and not features_cached(self.data, self.features):
            job = FeatureJob(self.open_target, self.layers, local_paths(self._target_name))
            cache_features(job, self.data, self.features, self.crew)

    def reader(self) -> Reads:
        """Where features come from."""
        if self.config.caches_features:
            return FeatureReader(self.features)
        return LiveFeatures(self.forward, self.layers)

    def writing_seconds(self) -> float:
        """Seconds per token of writing and its features by the whole crew; a shard is written where none was timed."""
        while not WritingRates(self.out).shards:
            self.write(tokens_written(self.data) + 1)
        return WritingRates(self.out).seconds_per_token / min(self.crew.size, self.config.shards_at_once)

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
