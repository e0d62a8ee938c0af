"""Loaded models that answer, each in its own way behind the same call: trees, chains, and `transformers` itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from ltd.chains.decoder import ChainDecoder
from ltd.chains.draft import ChainDraft
from ltd.chains.model_files import chain_for_transformers
from ltd.common.assets import shipped_chain
from ltd.common.files import expand_user
from ltd.decoding.decoder import Decoder, PolicyChoice
from ltd.decoding.statistics import Statistics
from ltd.evaluation import transformers_reference as hf_reference
from ltd.target.model import load_model

Answer = tuple[list[int], Statistics]  # the new tokens, with the stop token if there was one, and what was done


class Models:
    """What answers are made with: a loaded decoder, and what else is asked for, loaded once, when it first is.

    Args:
        decoder: shares its target and draft with all but `transformers`.
        target: the name of its target, as for `ltd.load`.
        chain_folder: a chain draft.
    """

    def __init__(self, decoder: Decoder, target: str | None, chain_folder: Path) -> None:
        self.decoder, self.target, self.chain_folder = decoder, target, chain_folder

    @cached_property
    def chain(self) -> ChainDraft:
        """The chain draft. Raises InputError if it does not fit the target or its tokenizer."""
        return ChainDraft.load(self.chain_folder, self.decoder.target, self.decoder.tokenizer)

    @cached_property
    def reference(self) -> PreTrainedModel:
        """The target once more, as `transformers` loads it, but for what its files say of sampling."""
        model = load_model(self.target, self.decoder.target.dtype, self.decoder.target.device).model
        model.generation_config = hf_reference.without_sampling(model.generation_config)
        return model

    @cached_property
    def assistant(self) -> PreTrainedModel:
        """The chain draft as a model of `transformers`."""
        return chain_for_transformers(self.chain_folder, self.reference)


def find_chain(folder: str | Path | None) -> Path:
    """The folder of a chain draft; None is the one that comes with this package, made for the default target."""
    return shipped_chain() if folder is None else expand_user(folder)


class Answerer(Protocol):
    """One way to answer."""

    def answer(self, prompt: list[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
        """Generates after one prompt; raises InputError if that cannot be answered.

        Args:
            prompt: token ids.
            max_new_tokens: at most so many; the context limit ends an answer too.
            temperature: 0 is greedy.
            seed: where sampling starts.
        """
        ...


@dataclass(frozen=True, slots=True)
class TreeAnswerer:
    """A tree draft and a policy; "none" is plain decoding, and None the decoder's own."""

    decoder: Decoder
    policy: PolicyChoice

    def answer(self, prompt: list[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
        news = self.decoder.stream(
            prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, policy=self.policy
        )
        return list(chain.from_iterable(news)), self.decoder.last_statistics


@dataclass(frozen=True, slots=True)
class ChainAnswerer:
    """A chain draft and a rule for its length."""

    decoder: ChainDecoder

    def answer(self, prompt: list[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
        news = self.decoder.stream(prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return list(chain.from_iterable(news)), self.decoder.last_statistics


@dataclass(frozen=True, slots=True)
class TransformersAnswerer:
    """The ordinary `generate` of `transformers`, with the same stop tokens and limits as `models.decoder`.

    Attributes:
        assistant: drafts for the model, or None.
        lookup: so many tokens at a time are looked up in the text so far, or None.
    """

    models: Models
    assistant: PreTrainedModel | None = None
    lookup: int | None = None

    def answer(self, prompt: list[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
        decoder = self.models.decoder
        # `transformers` goes on where the context ends.
        room = min(max_new_tokens, decoder.max_length - len(prompt))
        settings = hf_reference.sampling_settings(room, decoder.stop_ids, temperature)
        torch.manual_seed(seed)
        arrivals = hf_reference.Arrivals()
        hf_reference.generate(
            self.models.reference, prompt, arrivals, settings, lookup=self.lookup, assistant=self.assistant
        )
        return arrivals.token_ids, arrivals.statistics(len(prompt))
