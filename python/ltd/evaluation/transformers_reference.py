"""The ordinary `generate` of `transformers`: what texts are compared with, and rows of their own in comparisons."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from ltd.decoding.generation_config import SAMPLED
from ltd.decoding.statistics import Statistics

Arrive = Callable[[Sequence[int]], None]


@dataclass(slots=True)
class Arrivals:
    """One answer as it came in.

    Attributes:
        token_ids: so far.
        counts: tokens per arrival.
        times: in seconds on one clock: the start, then every arrival.
    """

    token_ids: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def __call__(self, tokens: Sequence[int]) -> None:
        """Notes new tokens at the moment of the call."""
        self.times.append(time.perf_counter())
        self.counts.append(len(tokens))
        self.token_ids.extend(tokens)

    @property
    def gains(self) -> list[int]:
        """Tokens per arrival after the first."""
        return self.counts[1:]

    @property
    def prefill_seconds(self) -> float:
        """From the start to the first arrival."""
        return self.times[1] - self.times[0]

    @property
    def decode_seconds(self) -> float:
        """From the first arrival to the last."""
        return self.times[-1] - self.times[1]

    def statistics(self, prompt_tokens: int) -> Statistics:
        """Counts and times as the decoders keep them; from outside the time has no parts, so it is all "whole"."""
        found = Statistics(prompt_tokens, len(self.token_ids), 1, gains=self.gains)
        found.seconds["prefill"], found.seconds["whole"] = self.prefill_seconds, self.decode_seconds
        return found


class ArrivalStreamer(BaseStreamer):
    """Hands on what `generate` streams but for the first piece, which is the prompt."""

    def __init__(self, arrive: Arrive) -> None:
        self.arrive, self.is_prompt = arrive, True

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.arrive(value.flatten().tolist())
        self.is_prompt = False

    def end(self) -> None:
        pass


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompt: list[int],
    arrive: Arrive,
    settings: dict[str, Any],
    *,
    lookup: int | None = None,
    assistant: PreTrainedModel | None = None,
) -> None:
    """Generates with one prompt, and calls `arrive` with new tokens as soon as `transformers` gives them out.

    Args:
        model: any causal LM.
        prompt: token ids.
        arrive: what is called; the first time at the end of the prefill.
        settings: `greedy_settings` or `sampling_settings`.
        lookup: so many tokens at a time are looked up in the text so far ("prompt lookup"); None is without.
        assistant: drafts for the model ("assisted generation"); None is without.
    """
    input_ids = torch.tensor([prompt], device=model.device)
    model.generate(  # type: ignore[operator]  # its stub does not know the method
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        prompt_lookup_num_tokens=lookup,
        assistant_model=assistant,
        streamer=ArrivalStreamer(arrive),
        **settings,
    )


def greedy_settings(max_new_tokens: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """With these, `transformers`' `generate` chooses and stops as greedy decoding here does."""
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "eos_token_id": list(stop_ids) or None,
        "pad_token_id": 0,
        "return_dict_in_generate": False,
    }


def sampling_settings(max_new_tokens: int, stop_ids: Sequence[int], temperature: float) -> dict[str, Any]:
    """With these, and a config of `without_sampling`, it samples from the distribution that sampling here does: all
    tokens, at this temperature.
    """
    if temperature == 0:
        return greedy_settings(max_new_tokens, stop_ids)
    warped = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return greedy_settings(max_new_tokens, stop_ids) | warped


def without_sampling(config: GenerationConfig) -> GenerationConfig:
    """A copy that says nothing of sampling: `generate` takes from a model's config whatever it is not told."""
    found = copy.deepcopy(config)
    for name in SAMPLED:
        setattr(found, name, None)
    return found
