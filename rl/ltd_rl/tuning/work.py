"""What the stages of tuning share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ltd.decoding.decoder import Decoder
from ltd.drafts.opening import LOOKUP
from ltd.errors import InputError
from ltd.policies import Policy
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import shipped_bundle
from ltd.target.device import resolve_device
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.sources import Source
from ltd_rl.traces.training_questions import training_folder
from ltd_rl.tuning.config import TuneConfig, setting_here

STAGES = 5
BUNDLE, TRAINING, QUESTIONS, HELD_OUT = "bundle", "training.json", "questions", "held-out"
DEFAULT, SHIPPED, LEARNED = "default", "shipped", "learned"  # names for people


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What the stages share: settings, models, and where traces and latencies come from."""

    config: TuneConfig
    decoder: Decoder
    setting: Setting
    source: Source

    @property
    def folder(self) -> Path:
        """For the results."""
        return self.source.folder

    @property
    def default(self) -> Policy:
        """What would be used here without learned policies: the decoder was loaded with it."""
        assert self.decoder.policy is not None
        return self.decoder.policy

    @property
    def drafts(self) -> bool:
        """Whether there is a draft, and not only tokens that are looked up."""
        return self.decoder.draft is not None

    def load(self, *_: Any, **__: Any) -> Decoder:
        """Stands in for `ltd.load` in all stages, which share one decoder."""
        return self.decoder


def expected(config: TuneConfig) -> Setting:
    """What the policies will be made for, known without loading weights; raises InputError as `setting_here`."""
    here = setting_here(config.target, config.draft, config.dtype, config.threads, config.device)
    if here.head_sha256 == LOOKUP and config.trainer == "ppo":
        raise InputError("PPO needs a draft to steer, and there is none; use the trainer exact, or name a head")
    if here.head_sha256 == LOOKUP:
        if config.width is not None:
            raise InputError("a beam width has no effect where nothing is drafted; leave it out")
    elif (width := config.width or shipped_width(here, resolve_device(config.device))) is not None:
        here = replace(here, width=width)
    # What is learned from greedy text alone knows nothing of the factors for sampled text.
    return here if any(config.temperatures) else replace(here, sampling_sha256=None)


def shipped_width(setting: Setting, device: torch.device) -> int | None:
    """The beam width of the shipped policies that would be used; None if none are."""
    shipped = shipped_bundle(setting, device)
    return None if shipped is None else shipped.policy.width


def prepare(config: TuneConfig, setting: Setting, folder: Path, load: Callable[..., Decoder]) -> Work:
    """Loads the models, and writes the questions where none are given."""
    data_dir = training_folder(config, folder / QUESTIONS)  # before a second target
    decoder = open_decoder(config, load)
    source = Source(
        folder=folder,
        data_dir=data_dir,
        tasks=config.tasks,
        target=config.target,
        draft=config.draft,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        limit=config.limit,
        max_new_tokens=config.max_new_tokens,
        temperatures=config.temperatures,
        width=setting.width,
        seconds=config.seconds,
    )
    return Work(config, decoder, setting, source)


def announce(stage: int, what: str) -> None:
    """Says which stage begins."""
    print(f"[{stage}/{STAGES}] {what}", file=sys.stderr, flush=True)
