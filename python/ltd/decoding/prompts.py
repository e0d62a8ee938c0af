"""Prompts: from text, messages or ids to checked lists of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.argument_types import as_truth, as_whole, wrong_type
from ltd.common.foreign_errors import reason_of
from ltd.errors import InputError

Tokens = torch.Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[torch.Tensor]
Messages = Sequence[dict[str, str]]
IdArray = torch.Tensor | NDArray[Any]
MESSAGE = '{"role": "user", "content": "Hi"}'


def encode(tokenizer: Any, text: str | Messages, chat: bool | None = None) -> list[int]:
    """Token ids of a text, or of chat messages ({"role", "content"}).

    Args:
        tokenizer: a `transformers` tokenizer.
        text: a user's text, or the messages so far.
        chat: put it into the chat template and open the assistant's turn; None does so if there is a template.

    Raises:
        InputError: no tokenizer, no template where one is needed, an empty text, messages that the template does not
            take, or something else than text and messages.
    """
    if tokenizer is None:
        raise InputError("this decoder has no tokenizer; give it one, or pass token ids")
    if not callable(tokenizer):
        raise wrong_type("tokenizer", tokenizer, "a tokenizer of transformers")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    chat = has_template if chat is None else as_truth(chat, "chat")
    check_text_or_messages(text)
    if not text or (isinstance(text, str) and not text.strip()):
        raise InputError("the prompt is empty; give some text")
    if not chat:
        if not isinstance(text, str):
            raise InputError("messages need the chat template; give one text, or use chat")
        return list(tokenizer(text)["input_ids"])
    if not has_template:
        raise InputError("this model's tokenizer has no chat template; use the raw text")
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)
    try:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    except Exception as error:  # a template is a program of somebody else's, and raises anything
        raise InputError(f"the model's chat template does not take these messages: {reason_of(error)}") from error


def check_text_or_messages(given: Any) -> None:
    """Raises InputError unless it is a text, or messages each with a role and a content that are texts."""
    if isinstance(given, str):
        check_characters(given)
        return
    if isinstance(given, bytes | bytearray) or not isinstance(given, Sequence):
        raise wrong_type("the prompt", given, f"a text, or a list of messages such as {MESSAGE}")
    for message in given:
        parts = [message.get(part) for part in ("role", "content")] if isinstance(message, Mapping) else [None]
        for part in parts:
            if not isinstance(part, str):
                raise wrong_type("a message", message, f"such as {MESSAGE}, with texts for both")
            check_characters(part)


def check_characters(text: str) -> None:
    """Raises InputError for a lone surrogate: bytes that are no text become such, and no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = text[error.start]
        raise InputError(
            f"the prompt holds {wrong!r} at place {error.start}, which is no character; decode its bytes as UTF-8"
        ) from None


def normalise(input_ids: Tokens) -> tuple[list[list[int]], bool]:
    """Lists of ids from every accepted form, and whether it was a batch (so that a batch is returned).

    (1, n) tensors and arrays count as one prompt, as tokenizers return them; a sequence of (n,) ones is a batch.

    Raises:
        InputError: something else; the message says what would be right.
    """
    if isinstance(input_ids, str | bytes | bytearray):
        raise InputError("generate takes token ids, not text; decoder.encode(text) makes them")
    if isinstance(input_ids, Mapping):
        raise InputError('generate takes token ids, not what a tokenizer returns as a whole; give its ["input_ids"]')
    if is_array(input_ids):
        if input_ids.ndim not in (1, 2) or not is_whole(input_ids):
            raise InputError(
                f"input_ids must be whole numbers of shape (n,) or (B, n), not {input_ids.dtype} of shape "
                f"{tuple(input_ids.shape)}"
            )
        listed = input_ids.tolist()
        return ([listed], False) if input_ids.ndim == 1 else (listed, len(listed) != 1)
    try:
        if isinstance(input_ids, Set):
            raise TypeError  # its elements have no order
        items = list(input_ids)
    except TypeError:
        raise InputError(f"input_ids must be a tensor or lists of token ids, not {type(input_ids).__name__}") from None
    if items and is_prompt(items[0]):
        return [whole_numbers(prompt) for prompt in items], True
    return [whole_numbers(items)], False


def is_array(ids: Any) -> TypeGuard[IdArray]:
    """Whether it is a tensor, or a NumPy array of numbers."""
    return isinstance(ids, torch.Tensor) or (isinstance(ids, np.ndarray) and ids.dtype.kind in "iufcb")


def is_whole(ids: IdArray) -> bool:
    """Whether the type of a tensor or array holds whole numbers."""
    if isinstance(ids, np.ndarray):
        return ids.dtype.kind in "iu"
    return not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)


def is_prompt(item: Any) -> bool:
    """Whether an element of the input is a prompt by itself, and the input so a batch."""
    return isinstance(item, Sequence) or (is_array(item) and item.ndim > 0)


def whole_numbers(prompt: Any) -> list[int]:
    """One prompt's ids as they were given; InputError if they are no whole numbers, or no list of them."""
    if is_array(prompt):
        if prompt.ndim != 1 or not is_whole(prompt):
            raise InputError(
                f"a prompt must be whole numbers of shape (n,), not {prompt.dtype} of shape {tuple(prompt.shape)}"
            )
        return list(prompt.tolist())
    if isinstance(prompt, str | bytes | bytearray) or not isinstance(prompt, Sequence):
        raise InputError(f"a prompt must be a list of token ids, not {prompt!r}")
    return [as_whole(token, "a token id in the prompt") for token in prompt]


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
        InputError: there is no room for a prompt and an answer, more than the model takes, or no whole number.
    """
    limit = context_limit if max_length is None else as_whole(max_length, "max_length")
    if not 2 <= limit <= context_limit:
        raise InputError(f"max_length {limit} is out of range; this target takes 2 … {context_limit} tokens")
    return limit
