"""What `generate` takes as a prompt, and what it says about everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import small_tokenizer
from transformers import AutoTokenizer, BatchEncoding

import ltd
from ltd.decoding.prompts import encode, normalise
from ltd.errors import InputError

IDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


@given(IDS)
def test_one_prompt_in_every_form(ids: list[int]) -> None:
    forms: list[Any] = [ids, tuple(ids), range(len(ids)), torch.tensor(ids), torch.tensor([ids]), np.array(ids),
                        np.array([ids]), np.array(ids, dtype=">i8"), np.array(ids[::-1])[::-1], iter(ids),
                        [np.int64(token) for token in ids], [torch.tensor(token) for token in ids]]  # fmt: skip
    for form in forms:
        expected = list(range(len(ids))) if isinstance(form, range) else ids
        prompts, is_batch = normalise(form)
        assert prompts == [expected] and not is_batch
        assert all(type(token) is int for token in prompts[0])


@given(st.lists(IDS, min_size=1, max_size=4))
def test_batches_in_every_form(batch: list[list[int]]) -> None:
    arrays = [np.array(ids) for ids in batch]
    for form in (batch, tuple(map(tuple, batch)), [torch.tensor(ids) for ids in batch], arrays):
        assert normalise(form) == (batch, True)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("hello", "takes token ids, not text"),
        (b"hello", "takes token ids, not text"),
        (["hello"], "a list of token ids, not 'hello'"),
        ([[1, 2], "hello"], "a list of token ids, not 'hello'"),
        ({"input_ids": [1, 2]}, r'give its \["input_ids"\]'),
        (bytearray(b"hello"), "takes token ids, not text"),
        ([1.0, 2.0], "token id in the prompt is 1.0, but must be a whole number"),
        ([[1, 2.5]], "is 2.5, but must be a whole number"),
        ([1, None], "is None, but must be a whole number"),
        ([1, True], "is True, but must be a whole number"),
        ([torch.tensor(1), torch.tensor(True)], r"is tensor\(True\), but must be a whole number"),
        ([1, "2"], "is '2', but must be a whole number"),
        ([1, [2]], r"is \[2\], but must be a whole number"),
        ([[1], 2], "a list of token ids, not 2"),
        ([[[1]]], r"is \[1\], but must be a whole number"),
        (7, "not int"),
        ({7, 8}, "not set"),
        ({7: 8}.keys(), "not dict_keys"),
        (None, "not NoneType"),
        (torch.tensor([1.0]), "not torch.float32 of shape"),
        (torch.tensor([True]), "not torch.bool of shape"),
        (np.array([1.0]), "not float64 of shape"),
        (np.array([True]), "not bool of shape"),
        (np.array(7), r"not int64 of shape \(\)"),
        ([np.array([1.0])], "not float64 of shape"),
        ([np.array([[1, 2]])], r"of shape \(1, 2\)"),
        (np.array(["a"]), "token ids, not"),
        (torch.tensor(3), r"of shape \(\)"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), r"of shape \(1, 1, 1\)"),
        ([torch.tensor([1.0])], "not torch.float32 of shape"),
        ([torch.zeros(1, 2, dtype=torch.int64)], r"of shape \(1, 2\)"),
        ([torch.tensor(1.5)], r"is tensor\(1.5000\), but must be a whole number"),
    ],
)
def test_anything_else_is_told_in_a_sentence(given: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        normalise(given)


def test_a_decoder_says_it_too(tiny_target: Callable[..., Path]) -> None:
    decoder = ltd.load(tiny_target("llama"), "none", dtype="float32")
    encoded = AutoTokenizer.from_pretrained(tiny_target("llama"))("hi", return_tensors="pt")
    assert isinstance(encoded, BatchEncoding)
    for call in (decoder.generate, decoder.stream):
        for wrong in ("hello", encoded, [1.0, 2.0]):
            with pytest.raises(InputError):
                call(wrong)  # type: ignore[arg-type]
    batch = decoder.generate([torch.tensor([5, 6]), torch.tensor([7])], max_new_tokens=2)
    assert isinstance(batch, list) and len(batch) == 2
    single = decoder.generate(encoded["input_ids"], max_new_tokens=2)
    assert not isinstance(single, list)


# --- text and messages ---

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def test_messages_and_texts() -> None:
    tokenizer = small_tokenizer()
    assert encode(tokenizer, "Hi") == encode(tokenizer, MESSAGES[:1]) == encode(tokenizer, tuple(MESSAGES[:1]))
    assert encode(tokenizer, MESSAGES) != encode(tokenizer, MESSAGES[:1])
    assert encode(tokenizer, "Hi", chat=False) == tokenizer("Hi")["input_ids"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (5, "the prompt is 5, but must be a text, or a list of messages"),
        (0, "the prompt is 0, but"),
        (None, "the prompt is None, but"),
        (b"Hi", "the prompt is b'Hi', but"),
        (MESSAGES[0], "the prompt is {'content': 'Hi', 'role': 'user'}, but"),
        (iter(MESSAGES), "the prompt is <list_iterator"),
        (["Hi"], "a message is 'Hi', but must be such as"),
        ([*MESSAGES, 5], "a message is 5, but"),
        ([{"role": "user"}], "a message is {'role': 'user'}, but"),
        ([{"content": "Hi"}], "a message is {'content': 'Hi'}, but"),
        ([{"role": "user", "content": None}], "'content': None.*with texts for both"),
        ([{"role": 1, "content": "Hi"}], "with texts for both"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "with texts for both"),
        ([], "the prompt is empty"),
        (" ", "the prompt is empty"),
        ("a\ud800", r"holds '\\ud800' at place 1, which is no character"),
        ([{"role": "user", "content": "\udcff"}], r"holds '\\udcff' at place 0"),
    ],
)
@pytest.mark.parametrize("chat", [None, True, False])
def test_what_is_no_prompt(text: Any, complaint: str, chat: bool | None) -> None:
    with pytest.raises(InputError, match=complaint):
        encode(small_tokenizer(), text, chat)


def test_arguments_of_encode() -> None:
    for chat in ("yes", 1, 2.5):
        with pytest.raises(InputError, match=f"chat is {chat!r}, but must be True or False"):
            encode(small_tokenizer(), "Hi", chat)  # type: ignore[arg-type]
    for tokenizer in (5, "gpt2"):
        with pytest.raises(InputError, match=r"tokenizer is .*, but must be a tokenizer of transformers"):
            encode(tokenizer, "Hi")


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages[7]['content'] }}", "{% if %}", "{{ 1 + '' }}"],
)
def test_what_a_template_does_not_take(template: str) -> None:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=r"chat template does not take these messages: ."):
        encode(tokenizer, MESSAGES)
