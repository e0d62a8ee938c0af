"""rotate_and_store against the modules of `transformers`, bit for bit where no norm's sum depends on its order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import DTYPES, every_kernel, strided
from test_ops_forward import norm
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ltd import ops
from ltd.errors import InputError


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


@settings(max_examples=40)
@given(**SIZES, half=st.sampled_from([1, 3, 8, 16, 32, 40, 64]), wide=st.booleans(), roomy=st.booleans())
def test_heads_are_turned_bit_for_bit(batch, nodes, heads, group, dtype, seed, half, wide, roomy):
    table = torch.float32 if wide else dtype
    made = Heads(batch, nodes, heads, group, 2 * half, dtype, table, (False, False), False, seed)
    made.check(strided if roomy else torch.clone, assert_equal)


@settings(max_examples=30)
@given(**SIZES, half=st.sampled_from([1, 8, 32]), first=st.booleans(), second=st.booleans())
def test_heads_are_normed_bit_for_bit_where_the_sum_is_exact(
    batch, nodes, heads, group, dtype, seed, half, first, second
):
    made = Heads(batch, nodes, heads, group, 2 * half, dtype, dtype, (first, second), True, seed)
    made.check(torch.clone, assert_equal)


@settings(max_examples=20)
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
