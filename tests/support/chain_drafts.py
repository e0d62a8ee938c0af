"""Small chain drafts for tests, and rules for their length."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.chains import Length
from ltd.chains.decoder import ChainDecoder
from ltd.chains.draft import ChainDraft
from ltd.chains.model_files import ChainFacts, save_chain
from ltd.chains.samplers import RESIDUAL
from ltd.engine.cpu import Engine
from ltd.target.target import Target


def small_draft(target: PreTrainedModel, layers: tuple[int, ...], noise: float) -> PreTrainedModel:
    """Some of a target's layers, with noise on their weights (a share of their spread), as a model of its own."""
    config = type(target.config)(**{**target.config.to_dict(), "num_hidden_layers": len(layers), "layer_types": None})
    draft = AutoModelForCausalLM.from_config(config)
    draft.load_state_dict(target.state_dict(), strict=False)
    for mine, number in zip(draft.model.layers, layers, strict=True):
        mine.load_state_dict(target.model.layers[number].state_dict())
    with torch.no_grad():
        for weight in draft.model.layers.parameters():
            weight.add_(torch.randn_like(weight) * noise * weight.std().nan_to_num())
    return draft


def save_draft(draft: PreTrainedModel, words: torch.Tensor | None, folder: Path, fingerprint: str = "any") -> Path:
    """Writes a draft to a folder."""
    count = None if words is None else len(words)
    layers = tuple(range(draft.config.num_hidden_layers))
    save_chain(draft, words, folder, ChainFacts("a target", fingerprint, layers, count), {"seconds": 1})
    return folder


def chain_decoder(model: PreTrainedModel, folder: Path, length: Length, sampler: str = RESIDUAL) -> ChainDecoder:
    """A decoder that takes a model's weights over."""
    target = Target(model, (), Engine(model))
    return ChainDecoder(target, ChainDraft.load(folder, target), length, sampler=sampler)


class AtRandom:
    """Chains of random lengths 1 … most; remembers what it was asked and told."""

    def __init__(self, most: int, seed: int = 0) -> None:
        self.max_length, self.random = most, random.Random(seed)
        self.asked: list[tuple[int, float, torch.Tensor]] = []
        self.told: list[tuple[int, int]] = []

    def start(self) -> AtRandom:
        return self

    def more(self, drafted: int, chance: float, state: torch.Tensor) -> bool:
        self.asked.append((drafted, chance, state))
        return self.random.random() < 0.7

    def verified(self, drafted: int, accepted: int) -> None:
        self.told.append((drafted, accepted))
