"""What a forward does between its products, against the modules of `transformers`.

Bit for bit where no sum and no exponential function comes in, whose last bit is a matter of order; else within one
rounding of the type.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import DTYPES, every_kernel, strided
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ltd import ops
from ltd.errors import InputError

STRANGE = [0.0, -0.0, 1.0, -2.5, 1e-30, 3e4, -3e4, math.inf, -math.inf, math.nan]


def norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`transformers`' own."""
    module = LlamaRMSNorm(len(weight), epsilon)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    normed: Tensor = module(states)
    return normed


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """Equal up to a rounding of the type; the last one comes after a factor that may be a float's last bit off."""
    loose = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[wanted.dtype]
    torch.testing.assert_close(found, wanted, rtol=loose, atol=1e-30, equal_nan=True)


def same(found: Tensor, wanted: Tensor) -> bool:
    """Equal bit for bit, but one NaN is like another."""
    return found.dtype == wanted.dtype and bool(torch.equal(found.nan_to_num(77.0), wanted.nan_to_num(77.0)))


# --- add_rms_norm ---


@settings(max_examples=40)
@given(
    rows=st.integers(0, 5),
    size=st.one_of(st.integers(1, 70), st.sampled_from([256, 576, 4096, 4100])),
    adds=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_states_are_added_to_and_normed(rows, size, adds, dtype, roomy, seed):
    generator = torch.Generator().manual_seed(seed)
    states, addend = (torch.randn(rows, size, generator=generator).to(dtype) for _ in range(2))
    weight = (1 + 0.3 * torch.randn(size, generator=generator)).to(dtype)
    sums = states + addend if adds else states
    wanted = norm(sums, weight, 1e-5)
    layout = strided if roomy else torch.clone
    for _ in every_kernel():
        found, normed = layout(states), layout(torch.full_like(states, 7))
        ops.add_rms_norm(found, layout(addend) if adds else None, weight, 1e-5, normed)
        assert torch.equal(found, sums)
        assert_near(normed, wanted)


@settings(max_examples=40)
@given(
    size=st.sampled_from([1, 2, 8, 64, 512, 4096]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_bits_are_those_of_transformers_where_the_sum_is_exact(size, dtype, seed):
    """Small whole numbers: every order of the squares has the same sum, and a power of two divides it exactly."""
    generator = torch.Generator().manual_seed(seed)
    states, addend = (torch.randint(-8, 9, (3, size), generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(size, generator=generator).to(dtype)
    wanted = norm(states + addend, weight, 1e-6)
    for _ in every_kernel():
        found, normed = states.clone(), torch.empty_like(states)
        ops.add_rms_norm(found, addend, weight, 1e-6, normed)
        assert torch.equal(normed, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strange", STRANGE)
def test_infinities_and_nan_go_where_the_formula_sends_them(strange, dtype):
    states = torch.ones(2, 40).to(dtype)
    addend = torch.zeros(2, 40).to(dtype)
    addend[0, 33] = strange
    weight = torch.full((40,), 0.5).to(dtype)
    wanted = norm(states + addend, weight, 1e-5)
    for _ in every_kernel():
        found, normed = states.clone(), torch.empty_like(states)
        ops.add_rms_norm(found, addend, weight, 1e-5, normed)
        assert same(found, states + addend)
        assert_near(normed, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_rows(dtype):
    """More than a block's threads hold in registers."""
    for size in (32768 + 8, 33001):
        states, addend = torch.randn(1, size).to(dtype), torch.randn(1, size).to(dtype)
        weight = torch.randn(size).to(dtype)
        for _ in every_kernel():
            found, normed = states.clone(), torch.empty_like(states)
            ops.add_rms_norm(found, addend, weight, 1e-5, normed)
            assert torch.equal(found, states + addend)
            assert_near(normed, norm(states + addend, weight, 1e-5))


def test_the_largest_numbers_overflow_as_in_transformers():
    states = torch.full((1, 16), 6e4).half()
    for _ in every_kernel():
        found, normed = states.clone(), torch.empty_like(states)
        ops.add_rms_norm(found, states, torch.ones(16).half(), 1e-5, normed)
        assert torch.equal(found, states + states)
        assert same(normed, norm(states + states, torch.ones(16).half(), 1e-5))


# --- gated_silu ---


@settings(max_examples=40)
@given(
    rows=st.integers(0, 5),
    size=st.one_of(st.integers(0, 70), st.sampled_from([256, 1536])),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gates_open(rows, size, spread, dtype, roomy, seed):
    generator = torch.Generator().manual_seed(seed)
    joint = (spread * torch.randn(rows, 2 * size, generator=generator)).to(dtype)
    wanted = silu(joint[:, :size]) * joint[:, size:]
    joint = strided(joint) if roomy else joint
    for _ in every_kernel():
        active = torch.full((rows, size), 7).to(dtype)
        active = strided(active) if roomy else active
        ops.gated_silu(joint, active)
        loose = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
        # e^x below the smallest normal float may count as 0.
        torch.testing.assert_close(active, wanted, rtol=loose, atol=2e-7 if dtype == torch.float16 else 1e-33)


@settings(max_examples=30)
@given(
    gates=st.lists(st.sampled_from(STRANGE), min_size=1, max_size=40),
    up=st.sampled_from(STRANGE),
    dtype=st.sampled_from(DTYPES),
)
def test_strange_gates(gates, up, dtype):
    gate = torch.tensor([gates]).to(dtype)
    joint = torch.cat([gate, torch.full_like(gate, up)], dim=1)
    for _ in every_kernel():
        active = torch.empty_like(gate)
        ops.gated_silu(joint, active)
        assert_near(active, silu(gate) * joint[:, gate.shape[1] :])


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": torch.zeros(2, 0)}, r"add_rms_norm: states must have at least one column, .* \[2, 0\]"),
        ({"states": torch.zeros(4)}, "states must have 2 dimensions"),
        ({"states": torch.zeros(2, 4).double()}, "states must be of type Float, Half or BFloat16"),
        ({"addend": torch.zeros(2, 5)}, "addend must have size 4 in dimension 1"),
        ({"addend": torch.zeros(2, 4).half()}, "addend must be of the same type as states"),
        ({"weight": torch.zeros(5)}, "weight must have size 4"),
        ({"normed": torch.zeros(3, 4)}, "normed must have size 2"),
        ({"epsilon": -1e-5}, "epsilon must be finite and at least 0, but is -1e-05"),
        ({"epsilon": math.nan}, "epsilon must be finite and at least 0, but is nan"),
    ],
)
def test_bad_norms_are_named(changes, message):
    def call(**changes):
        tensors = {"states": torch.zeros(2, 4), "addend": None, "weight": torch.zeros(4), "normed": torch.zeros(2, 4)}
        ops.add_rms_norm(**{**tensors, "epsilon": 1e-5, **changes})

    call()
    with pytest.raises(InputError, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ("gate_up", "message"),
    [
        (torch.zeros(2, 7), r"gated_silu: gate_up must have size 8 in dimension 1, but its shape is \[2, 7\]"),
        (torch.zeros(2, 8).half(), "gate_up must be of the same type as active"),
        (torch.zeros(2, 2, 4), "gate_up must have 2 dimensions"),
    ],
)
def test_bad_gates_are_named(gate_up, message):
    with pytest.raises(InputError, match=message):
        ops.gated_silu(gate_up, torch.zeros(2, 4))
