"""row_entropy against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import DTYPES, every_kernel, strided

from ltd import ops
from ltd.errors import InputError


def exact(logits: torch.Tensor) -> torch.Tensor:
    """-Σ p log p, 0 log 0 being 0; NaN where there is no distribution."""
    chances = logits.double().softmax(dim=-1)
    return torch.special.entr(chances).sum(dim=-1)


def check(logits: torch.Tensor) -> None:
    expected = exact(logits)
    for _ in every_kernel():
        found = ops.row_entropy(logits)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6, equal_nan=True)
        assert not (found < 0).any()


@settings(max_examples=60)
@given(
    batch=st.integers(0, 3),
    rows=st.integers(0, 16),
    vocabulary=st.integers(1, 1700),
    spread=st.sampled_from([0.0, 0.1, 3.0, 100.0]),
    middle=st.sampled_from([-3e4, 0.0, 50.0]),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_entropy_matches_the_definition(batch, rows, vocabulary, spread, middle, dtype, roomy, seed):
    logits = torch.randn(batch, rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread + middle
    check((strided(logits) if roomy else logits).to(dtype))


@settings(max_examples=60)
@given(
    values=st.lists(st.sampled_from([-math.inf, -90.0, -2.0, 0.0, 1.5, 60.0]), min_size=1, max_size=1100),
    strange=st.sampled_from([None, math.nan, math.inf]),
    place=st.integers(0, 2000),
    dtype=st.sampled_from(DTYPES),
)
def test_ties_infinities_and_nan(values, strange, place, dtype):
    if strange is not None:
        values[place % len(values)] = strange
    check(torch.tensor(values).to(dtype).view(1, 1, -1))


@pytest.mark.parametrize("first", [-math.inf, -3.3e38, 3.3e38])
def test_the_maximum_may_come_late_or_be_far_off(first):
    logits = torch.full((1, 1, 1600), first)
    logits[0, 0, 1300:] = torch.tensor([1.0, 2.0, 3.0]).repeat(100)
    check(logits)


def test_one_element_and_one_that_is_certain_have_no_entropy():
    for _ in every_kernel():
        assert ops.row_entropy(torch.tensor([[[4.0], [-3e38]]])).tolist() == [[0.0, 0.0]]
        certain = torch.full((1, 1, 700), -math.inf)
        certain[0, 0, 600] = 5.0
        assert ops.row_entropy(certain).tolist() == [[0.0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_vocabulary(dtype):
    check(torch.randn(1, 2, 262144, generator=torch.Generator().manual_seed(3)).to(dtype))
    check(torch.zeros(1, 1, 262144, dtype=dtype))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(3, 4), r"row_entropy: logits must have 3 dimensions, but its shape is \[3, 4\]"),
        (torch.zeros(1, 2, 0), r"logits must have at least one column, but its shape is \[1, 2, 0\]"),
        (torch.zeros(1, 1, 4, dtype=torch.float64), "logits must be of type Float, Half or BFloat16"),
        (torch.zeros(1, 1, 8)[..., ::2], "logits must be contiguous in its last dimension"),
    ],
)
def test_bad_input_is_named(logits, message):
    with pytest.raises(InputError, match=message):
        ops.row_entropy(logits)
