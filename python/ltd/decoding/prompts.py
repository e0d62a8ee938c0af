"""Prompts: from text, messages or ids to checked lists of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ltd.errors import InputError

Tokens = torch.Tensor | Sequence[int] | Sequence[Sequence[int]]
Messages = Sequence[dict[str, str]]


def encode(tokenizer: Any, text: str | Messages, chat: bool | None = None) -> list[int]:
    """Token ids of a text, or of chat messages ({"role", "content"}).

    Args:
        tokenizer: a `transformers` tokenizer.
        text: a user's text, or the messages so far.
        chat: put it into the chat template and open the assistant's turn; None does so if there is a template.

    Raises:
        InputError: no tokenizer, no template where one is needed, or an empty text.
    """
    if tokenizer is None:
        raise InputError("this decoder has no tokenizer; give it one, or pass token ids")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    chat = has_template if chat is None else chat
    if not text or (isinstance(text, str) and not text.strip()):
        raise InputError("the prompt is empty; give some text")
    if not chat:
        if not isinstance(text, str):
            raise InputError("messages need the chat template; give one text, or use chat")
        return list(tokenizer(text)["input_ids"])
    if not has_template:
        raise InputError("this model's tokenizer has no chat template; use the raw text")
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def normalise(input_ids: Tokens) -> tuple[list[list[int]], bool]:
    """Lists of ids from every accepted form, and whether it was a batch (so that a batch is returned).

    (1, n) tensors count as one prompt, as tokenizers return them.
    """
    if isinstance(input_ids, torch.Tensor):
        if input_ids.dim() not in (1, 2) or input_ids.is_floating_point():
            raise InputError(f"input_ids must be whole numbers of shape (n,) or (B, n), not {tuple(input_ids.shape)}")
        listed = input_ids.tolist()
        return ([listed], False) if input_ids.dim() == 1 else (listed, len(listed) != 1)
    if len(input_ids) > 0 and isinstance(input_ids[0], Sequence):
        return [list(prompt) for prompt in input_ids], True  # type: ignore[arg-type]
    return [list(input_ids)], False  # type: ignore[arg-type]


def check_prompts(prompts: list[list[int]], vocab_size: int, max_length: int) -> None:
    """Raises InputError for an empty prompt, an unknown id, or a prompt that leaves no room for an answer."""
    check_ids(prompts, vocab_size)
    longest = max(map(len, prompts))
    if longest >= max_length:
        raise InputError(
            f"the prompt has {longest} tokens, but prompt and answer together may have {max_length}; shorten it"
        )


def check_ids(prompts: list[list[int]], vocab_size: int) -> None:
    """Raises InputError for an empty prompt or an unknown id."""
    if not prompts:
        raise InputError("there is no prompt; give at least one")
    for prompt in prompts:
        if not prompt:
            raise InputError("the prompt is empty; give at least one token")
        unknown = next((token for token in prompt if not 0 <= token < vocab_size), None)
        if unknown is not None:
            raise InputError(f"token id {unknown} is not in the target's vocabulary (0 … {vocab_size - 1})")


def length_limit(max_length: int | None, context_limit: int) -> int:
    """The most tokens of prompt and answer together; None is what the model takes.

    Raises:
        InputError: there is no room for a prompt and an answer, or more than the model takes.
    """
    limit = context_limit if max_length is None else max_length
    if not 2 <= limit <= context_limit:
        raise InputError(f"max_length {limit} is out of range; this target takes 2 … {context_limit} tokens")
    return limit
