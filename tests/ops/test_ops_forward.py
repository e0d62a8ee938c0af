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
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=30, deadline=None)
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


# --- rotate_and_store ---


class Heads:
    """A joint projection, what turns it, and what `transformers` makes of it.

    Args:
        exact: small whole numbers, of which the norms' sums are the same in every order.
    """

    def __init__(self, batch, nodes, heads, group, head_dim, dtype, table, norms, exact, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: (  # noqa: E731
            torch.randint(-8, 9, shape, generator=generator) if exact else torch.randn(shape, generator=generator)
        )
        self.sizes = batch, nodes, heads, heads * group, head_dim
        self.qkv = draw(batch, nodes, heads * (group + 2) * head_dim).to(dtype)
        weights = [torch.randn(head_dim, generator=generator).to(dtype) for _ in range(2)]
        self.norms = [weight if wanted else None for weight, wanted in zip(weights, norms, strict=True)]
        angles = 6 * torch.rand(50, head_dim, generator=generator)
        self.tables = angles.cos().to(table), angles.sin().to(table)
        self.rows = torch.randint(0, 50, (batch, nodes), generator=generator)
        self.lengths = torch.randint(0, 20, (batch,), generator=generator).int()
        self.first_row = int(torch.randint(0, 5, (), generator=generator))

    def wanted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, N, head_dim)."""
        _, _, heads, query_heads, head_dim = self.sizes
        parts = self.qkv.unflatten(2, (-1, head_dim)).split([query_heads, heads, heads], dim=2)
        query, key = (
            part if weight is None else norm(part, weight, 1e-6)
            for part, weight in zip(parts[:2], self.norms, strict=True)
        )
        cosines, sines = (table[self.rows] for table in self.tables)
        turned = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cosines, sines)
        query, key = (part.to(self.qkv.dtype) for part in turned)
        return query, key, parts[2].transpose(1, 2)

    def run(self, layout) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the whole of keys and values, which were 7 before."""
        batch, nodes, heads, query_heads, head_dim = self.sizes
        keys, values = (layout(torch.full((batch, heads, 40, head_dim), 7).to(self.qkv.dtype)) for _ in range(2))
        queries = layout(torch.full((batch, nodes, query_heads, head_dim), 7).to(self.qkv.dtype)).transpose(1, 2)
        qkv, rows = layout(self.qkv), layout(self.rows)
        written = keys, values, queries
        ops.rotate_and_store(qkv, *self.norms, 1e-6, *self.tables, rows, self.lengths, self.first_row, *written)
        return queries, keys, values

    def check(self, layout, equal) -> None:
        batch, nodes = self.sizes[:2]
        query, key, value = self.wanted()
        for _ in every_kernel():
            queries, keys, values = self.run(layout)
            equal(queries, query)
            for cache, part, compare in ((keys, key, equal), (values, value, assert_equal)):
                for b in range(batch):
                    start = int(self.lengths[b]) + self.first_row
                    compare(cache[b, :, start : start + nodes], part[b])
                    assert (cache[b, :, :start] == 7).all()
                    assert (cache[b, :, start + nodes :] == 7).all()


def assert_equal(found: Tensor, wanted: Tensor) -> None:
    assert torch.equal(found, wanted)


SIZES = {
    "batch": st.integers(0, 3),
    "nodes": st.integers(0, 4),
    "heads": st.integers(1, 3),
    "group": st.integers(1, 3),
    "dtype": st.sampled_from(DTYPES),
    "seed": st.integers(0, 2**31),
}


@settings(max_examples=40, deadline=None)
@given(**SIZES, half=st.sampled_from([1, 3, 8, 16, 32, 40, 64]), wide=st.booleans(), roomy=st.booleans())
def test_heads_are_turned_bit_for_bit(batch, nodes, heads, group, dtype, seed, half, wide, roomy):
    table = torch.float32 if wide else dtype
    made = Heads(batch, nodes, heads, group, 2 * half, dtype, table, (False, False), False, seed)
    made.check(strided if roomy else torch.clone, assert_equal)


@settings(max_examples=30, deadline=None)
@given(**SIZES, half=st.sampled_from([1, 8, 32]), first=st.booleans(), second=st.booleans())
def test_heads_are_normed_bit_for_bit_where_the_sum_is_exact(
    batch, nodes, heads, group, dtype, seed, half, first, second
):
    made = Heads(batch, nodes, heads, group, 2 * half, dtype, dtype, (first, second), True, seed)
    made.check(torch.clone, assert_equal)


@settings(max_examples=20, deadline=None)
@given(**SIZES, half=st.sampled_from([1, 5, 40, 64]), roomy=st.booleans())
def test_heads_are_normed(batch, nodes, heads, group, dtype, seed, half, roomy):
    loose = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    near = lambda found, wanted: torch.testing.assert_close(found, wanted, rtol=loose, atol=loose)  # noqa: E731
    made = Heads(batch, nodes, heads, group, 2 * half, dtype, dtype, (True, True), False, seed)
    made.check(strided if roomy else torch.clone, near)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_heads(dtype):
    """More pairs of packs than a warp has lanes."""
    Heads(1, 1, 1, 2, 1024, dtype, torch.float32, (False, False), False, 3).check(torch.clone, assert_equal)
    Heads(1, 1, 1, 2, 1022, dtype, dtype, (False, False), False, 3).check(torch.clone, assert_equal)


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
    ("changes", "message"),
    [
        ({"qkv": torch.zeros(1, 2, 31)}, "rotate_and_store: qkv must have size 32 in dimension 2"),
        ({"queries": torch.zeros(1, 2, 2, 7)}, "queries must have an even head size"),
        ({"query_norm": torch.zeros(4)}, "query_norm must have size 8"),
        ({"key_norm": torch.zeros(8).half()}, "key_norm must be of the same type as qkv"),
        ({"cosines": torch.zeros(5, 8).half()}, "cosines must be of type Float or Float, as qkv is, but is Half"),
        ({"sines": torch.zeros(4, 8)}, "sines must have size 5 in dimension 0"),
        ({"sines": torch.zeros(5, 16)[:, ::2]}, "sines must be contiguous"),
        ({"rows": torch.tensor([[0, 5]])}, "rows must be 0 to 4, but holds 5"),
        ({"rows": torch.tensor([[0, -1]])}, "rows must be 0 to 4, but holds -1"),
        ({"lengths": torch.tensor([8], dtype=torch.int32)}, r"lengths\[0\] = 8 and 2 tree rows do not fit the 9 rows"),
        ({"lengths": torch.tensor([-1], dtype=torch.int32)}, r"lengths\[0\] = -1 and 2 tree rows do not fit"),
        ({"first_row": 10}, "first_row must be 0 to 9, but is 10"),
        ({"first_row": -1}, "first_row must be 0 to 9, but is -1"),
        ({"values": torch.zeros(1, 1, 8, 8)}, "values must have size 9 in dimension 2"),
    ],
)
def test_bad_heads_are_named(changes, message):
    def call(**changes):
        arguments = {
            "qkv": torch.zeros(1, 2, 32), "query_norm": None, "key_norm": None, "epsilon": 1e-5,
            "cosines": torch.zeros(5, 8), "sines": torch.zeros(5, 8), "rows": torch.tensor([[0, 1]]),
            "lengths": torch.tensor([3], dtype=torch.int32), "first_row": 0, "keys": torch.zeros(1, 1, 9, 8),
            "values": torch.zeros(1, 1, 9, 8), "queries": torch.zeros(1, 2, 2, 8),
        }  # fmt: skip
        ops.rotate_and_store(**{**arguments, **changes})

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
