"""What `generate` of `transformers` was asked for: what is honoured goes on, what is not is refused by its name."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, StoppingCriteriaList, StopStringCriteria

from ltd.decoding.generation_config import LENGTHS, NO_EFFECT, PROCESSED, SAMPLED, TOKENS, check_config
from ltd.errors import InputError

HONOURED = PROCESSED | SAMPLED | TOKENS | LENGTHS | NO_EFFECT
HONOURED |= {"max_time", "stop_strings", "num_return_sequences", "return_dict_in_generate"}
# What `generate` itself prepares for a model's forward.
PREPARED = frozenset({"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"})
GENERATE = inspect.unwrap(GenerationMixin.generate).__code__


def arguments_kept_back() -> dict[str, Any]:
    """The arguments of `generate` that it does not hand on to custom generation; none where it is not the caller.

    `transformers` 5.23 puts the prompt into a streamer and then forgets it. So the call is looked for on the stack:
    better than a reader of the streamer who waits for ever.
    """
    frame = sys._getframe(1)
    while frame.f_code is not GENERATE:
        if frame.f_back is None:
            return {}
        frame = frame.f_back
    return {name: frame.f_locals.get(name) for name in ("streamer", "assistant_model", "synced_gpus")}


def take_stop_strings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `generate` with a stopping criterion in the place of stop strings.

    `transformers` 5.23 forgets the `tokenizer`, without which it makes no criterion, where generation is custom. Stop
    strings without a tokenizer stay where they are: that it is missing is for `generate` to say.
    """
    arguments, config, tokenizer = dict(given), given.get("generation_config"), given.get("tokenizer")
    strings = given.get("stop_strings") or getattr(config, "stop_strings", None)
    if not strings or tokenizer is None:
        return arguments
    arguments.pop("stop_strings", None)
    if config is not None:
        arguments["generation_config"] = config = copy.copy(config)
        config.stop_strings = None
    words = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
    criterion = StopStringCriteria(words, strings)
    arguments["stopping_criteria"] = StoppingCriteriaList([*(given.get("stopping_criteria") or ()), criterion])
    return arguments


def check_arguments(
    config: GenerationConfig, kept_back: Mapping[str, Any], model_kwargs: Mapping[str, Any], input_ids: torch.Tensor
) -> None:
    """Refuses what a call asks for beyond what is known to be honoured.

    Raises:
        InputError: something that is not, by its name.
    """
    check_config(config, HONOURED, "generate")
    for name, value in {**kept_back, **model_kwargs}.items():
        if name not in PREPARED | {"streamer"} and value is not None and value is not False:
            raise InputError(f"generate was given {name}, which speculative decoding does not honour; leave it out")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and (getattr(cache, "_is_user_defined", False) or cache.get_seq_length() > 0):
        raise InputError("generate was given past_key_values, but speculation keeps a cache of its own; leave it out")
    positions, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    shown = torch.ones_like(input_ids) if mask is None else mask
    expected = shown.long().cumsum(-1) - 1
    if positions is not None and bool(((positions != expected) & shown.bool()).any()):
        raise InputError(
            "generate was given position_ids of its own; speculation counts each prompt from 0, leave it out"
        )


def unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """The prompts (B, n) without what the attention mask (B, n) hides on their left."""
    if attention_mask is None:
        listed: list[list[int]] = input_ids.tolist()
        return listed
    if attention_mask.shape != input_ids.shape:
        raise InputError(
            f"the attention mask is {tuple(attention_mask.shape)} for prompts of {tuple(input_ids.shape)}; "
            "it must have one number per token"
        )
    mask = attention_mask.bool()
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise InputError(
            "the attention mask hides tokens behind others that it shows; it may hide a beginning, the padding, alone"
        )
    return [row[keep].tolist() for row, keep in zip(input_ids, mask, strict=True)]
