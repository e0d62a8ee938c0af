"""An emulated Arm processor beside this one; the engine's other tests run there too, see `engine_isa`."""

from __future__ import annotations

import pytest
import torch
from call_runner import arm_runner, engine_on, has_arm, place_noise
from engine_models import DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st

from ltd import ops

pytestmark = pytest.mark.skipif(
    not has_arm(), reason="no compiler for Arm (aarch64-linux-gnu-g++) or no qemu-aarch64 is here"
)


@settings(max_examples=20)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    row=st.integers(0, 2**32 - 1),
    position=st.integers(0, 2**32 - 1),
    vocabulary=st.sampled_from([1, 5, 17, 4097, 20_001]),
)
def test_a_place_has_the_same_noise(seed: int, row: int, position: int, vocabulary: int) -> None:
    """To the last bit: a seed is one text on all processors, as far as their logits are the same."""
    here = ops.place_noise(torch.tensor([seed]), row, position, vocabulary)
    assert torch.equal(place_noise(arm_runner(), seed, row, position, vocabulary), here)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_nearly_that_of_this_processor(dtype: torch.dtype) -> None:
    """Arm rounds a step of a sum once; the baseline of x86-64 twice."""
    generator = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(rows, 300, generator=generator).to(dtype) for rows in (70, 9))
    packed = torch.empty(ops.packed_shape(70, 300, dtype), dtype=dtype)
    ops.pack_linear(weight, packed)
    here = ops.linear(x, packed, 70)
    with engine_on(arm_runner()):
        there = ops.linear(x, packed, 70)
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(there, here, rtol=tolerance, atol=300 * 2.0**-23)
