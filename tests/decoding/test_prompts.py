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
from transformers import AutoTokenizer, BatchEncoding

import ltd
from ltd.decoding.prompts import normalise
from ltd.errors import InputError

IDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


@given(IDS)
def test_one_prompt_in_every_form(ids: list[int]) -> None:
    forms: list[Any] = [ids, tuple(ids), range(len(ids)), torch.tensor(ids), torch.tensor([ids]), np.array(ids),
                        [np.int64(token) for token in ids], [torch.tensor(token) for token in ids]]  # fmt: skip
    for form in forms:
        expected = list(range(len(ids))) if isinstance(form, range) else ids
        prompts, is_batch = normalise(form)
        assert prompts == [expected] and not is_batch
        assert all(type(token) is int for token in prompts[0])


@given(st.lists(IDS, min_size=1, max_size=4))
def test_batches_in_every_form(batch: list[list[int]]) -> None:
    for form in (batch, tuple(map(tuple, batch)), [torch.tensor(ids) for ids in batch]):
        assert normalise(form) == (batch, True)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("hello", "takes token ids, not text"),
        (b"hello", "takes token ids, not text"),
        (["hello"], "a list of token ids, not 'hello'"),
        ([[1, 2], "hello"], "a list of token ids, not 'hello'"),
        ({"input_ids": [1, 2]}, r'give its \["input_ids"\]'),
        ([1.0, 2.0], "whole numbers, not 1.0"),
        ([[1, 2.5]], "whole numbers, not 2.5"),
        ([1, None], "whole numbers, not None"),
        ([1, True], "whole numbers, not True"),
        ([1, [2]], r"whole numbers, not \[2\]"),
        ([[1], 2], "a list of token ids, not 2"),
        ([[[1]]], r"whole numbers, not \[1\]"),
        (7, "not int"),
        (None, "not NoneType"),
        (torch.tensor([1.0]), "not torch.float32 of shape"),
        (torch.tensor([True]), "not torch.bool of shape"),
        (np.array([1.0]), "not torch.float64 of shape"),
        (np.array(["a"]), "token ids, not"),
        (torch.tensor(3), r"of shape \(\)"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), r"of shape \(1, 1, 1\)"),
        ([torch.tensor([1.0])], "not torch.float32 of shape"),
        ([torch.zeros(1, 2, dtype=torch.int64)], r"of shape \(1, 2\)"),
        ([torch.tensor(1.5)], "whole numbers, not tensor"),
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
