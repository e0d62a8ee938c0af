"""tree_attention against a float64 softmax."""

from __future__ import annotations

import math

import pytest
import torch
from emulated import barriers, emulated_kernels, visits
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import DTYPES, every_kernel, strided
from operator_reference import attention, visible
from torch import Tensor

from ltd import ops
from ltd.errors import InputError

# Rounding of the output type, plus that of float32 sums.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


def random_masks(batch: int, nodes: int, tree_rows: int, generator: torch.Generator) -> torch.Tensor:
    """Any bits; some queries see nothing of the tree. Bits from tree_rows on are rubbish that must not matter.

    Of a large tree a query sees one row in 16, as branches are short.
    """
    words = -(-max(tree_rows, 1) // 64)
    masks = torch.full((batch, nodes, words), -1)
    for _ in range(1 if tree_rows <= 64 else 4):
        masks &= torch.randint(-(2**63), 2**63 - 1, masks.shape, generator=generator)
    masks[torch.rand(batch, nodes, generator=generator) < 0.15] = 0
    return masks


def inputs(batch, kv_heads, group, nodes, lengths, tree_rows, head_dim, dtype, generator):
    capacity = max(lengths) + tree_rows + 3
    shapes = [(batch, kv_heads * group, nodes, head_dim)] + [(batch, kv_heads, capacity, head_dim)] * 2
    query, keys, values = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    # What lies behind the tree must not be touched.
    for b, length in enumerate(lengths):
        keys[b, :, length + tree_rows :] = math.nan
        values[b, :, length + tree_rows :] = math.nan
    return query, keys, values


def check(query, keys, values, lengths, tree_rows, masks, positions, scale, window):
    lengths = torch.tensor(lengths, dtype=torch.int32)
    seen = visible(lengths, query.shape[2], tree_rows, keys.shape[2], masks, positions, window)
    clean = [tensor.nan_to_num(0.0) for tensor in (keys, values)]
    expected = attention(query, *clean, seen, scale)
    for kernel in every_kernel():
        output = ops.tree_attention(query, keys, values, lengths, tree_rows, masks, positions, scale, window)
        assert output.dtype == query.dtype
        assert output.is_contiguous()
        tolerance = TOLERANCE[query.dtype]
        worst = ((output.double() - expected).abs() / (1 + expected.abs())).max().item()
        assert worst <= tolerance, kernel


@settings(max_examples=80)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    nodes=st.integers(1, 70),
    head_dim=st.sampled_from([1, 7, 16, 33, 64, 80, 96, 128]),
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(["masks", "more rows", "chain"]),
    window=st.sampled_from([0, 0, 1, 5, 40]),
    roomy=st.booleans(),
    data=st.data(),
)
def test_matches_float64(batch, kv_heads, group, nodes, head_dim, dtype, mode, window, roomy, data):
    lengths = data.draw(st.lists(st.integers(0, 300), min_size=batch, max_size=batch))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    tree_rows = nodes
    if mode == "more rows":
        tree_rows, window = data.draw(st.integers(0, 150)), 0
    query, keys, values = inputs(batch, kv_heads, group, nodes, lengths, tree_rows, head_dim, dtype, generator)
    masks = None if mode == "chain" else random_masks(batch, nodes, tree_rows, generator)
    depths = torch.randint(0, 12, (batch, nodes), generator=generator)
    positions = torch.tensor(lengths)[:, None] + (torch.arange(nodes) if mode == "chain" else depths)
    if roomy:
        query = query.transpose(1, 2).contiguous().transpose(1, 2)
        keys, values, positions = strided(keys), strided(values), strided(positions)
        masks = None if masks is None else strided(masks)
    check(query, keys, values, lengths, tree_rows, masks, positions, head_dim**-0.5, window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("nodes", "length", "masked"),
    [(61, 512, True), (1, 700, False), (1, 4000, True), (10, 2048, True), (300, 129, False), (513, 64, True)],
)
def test_sizes_of_decoding_and_prefill(nodes, length, masked, dtype):
    """Nine query heads on three, as in the default target; prefixes long enough to be split."""
    generator = torch.Generator().manual_seed(nodes)
    query, keys, values = inputs(1, 3, 3, nodes, [length], nodes, 64, dtype, generator)
    masks = random_masks(1, nodes, nodes, generator) if masked else None
    positions = length + torch.arange(nodes)[None]
    check(query, keys, values, [length], nodes, masks, positions, 0.125, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_of_the_lengths_changes_no_bit(dtype):
    """It decides how many splits of the keys there may be, of which those without keys do nothing."""
    generator = torch.Generator().manual_seed(3)
    length, nodes, capacity = 600, 5, 3000
    query, *filled = inputs(1, 2, 2, nodes, [length], nodes, 64, dtype, generator)
    keys, values = (torch.cat([part, torch.full((1, 2, capacity, 64), math.nan).to(dtype)], dim=2) for part in filled)
    masks, lengths = random_masks(1, nodes, nodes, generator), torch.tensor([length], dtype=torch.int32)
    seen = visible(lengths, nodes, nodes, filled[0].shape[2], masks, torch.zeros(1, nodes).long(), 0)
    expected = attention(query, *(part.nan_to_num(0.0) for part in filled), seen, 0.125)
    rest = lengths, nodes, masks, torch.zeros(1, nodes).long(), 0.125, 0
    for kernel in every_kernel():
        output = ops.tree_attention(query, keys, values, *rest, -1)
        worst = ((output.double() - expected).abs() / (1 + expected.abs())).max().item()
        assert worst <= TOLERANCE[dtype], kernel
        for longest in (length + nodes, 1024, 2048, keys.shape[2]):
            assert torch.equal(output, ops.tree_attention(query, keys, values, *rest, longest)), kernel


@pytest.mark.parametrize(
    ("batch", "nodes", "lengths", "head_dim", "dtype", "merges"),
    [
        (1, 5, [1500], 64, torch.bfloat16, True),
        (2, 3, [0, 1500], 80, torch.float16, True),  # splits without keys
        (1, 2, [900], 7, torch.float32, True),  # no packs of four
        (1, 1, [900], 200, torch.float32, True),  # two parts of the outputs
        (1, 61, [3000], 64, torch.bfloat16, False),  # more than the last block should read
    ],
)
def test_the_last_block_merges_splits_as_a_second_launch_does(batch, nodes, lengths, head_dim, dtype, merges):
    """To the last bit, in any order of the blocks, and leaves the counters as it found them."""
    generator = torch.Generator().manual_seed(nodes)
    query, keys, values = inputs(batch, 1, 2, nodes, lengths, nodes, head_dim, dtype, generator)
    given = torch.tensor(lengths, dtype=torch.int32)
    masks = random_masks(batch, nodes, nodes, generator)
    rest = given, nodes, masks, torch.zeros(batch, nodes).long(), 0.125, 0, -1
    counters = torch.zeros(ops.MERGE_COUNTERS, dtype=torch.int32)
    for seed in range(4):
        with emulated_kernels(seed):
            expected = ops.tree_attention(query, keys, values, *rest)
            before = sum(at_last_block())
            assert torch.equal(ops.tree_attention(query, keys, values, *rest, counters), expected)
            assert (sum(at_last_block()) > before) == merges
        assert not counters.any()


def at_last_block() -> list[int]:
    """How often threads have come to the barriers of blocks that ask whether they are the last."""
    return [count for place, count in zip(barriers(), visits(), strict=True) if place.startswith("last_block.cuh:")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_sees_nothing_is_zero(dtype):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = inputs(1, 1, 2, 3, [0], 3, 16, dtype, generator)
    masks = torch.tensor([[[0], [2], [0]]])
    for _ in every_kernel():
        output = ops.tree_attention(
            query, keys, values, torch.zeros(1, dtype=torch.int32), 3, masks, torch.zeros(1, 3).long(), 1.0
        )
        assert not output[0, [0, 2]].any()
        torch.testing.assert_close(output[0, 1], values[0, 0, 1].expand(2, -1))


def test_extreme_scores_do_not_overflow():
    """One key wins by far, in the first block and in the last."""
    for winner in (0, 199):
        query, keys = torch.ones(1, 1, 2, 64), torch.zeros(1, 1, 202, 64)
        values = torch.randn(1, 1, 202, 64)
        keys[0, 0, winner] = 1e18
        check(query, keys, values, [200], 2, None, torch.tensor([[200, 201]]), 1.0, 0)


def planted(mode: str, length: int) -> tuple[Tensor | None, Tensor, int, list[int]]:
    """Masks, positions and window of nine nodes, and rows of the cache that some of them see and some do not."""
    depths = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 4])
    masks = torch.tensor([1, 3, 5, 11, 19, 37, 75, 147, 331])[None, :, None]
    if mode == "tree":
        return masks, length + depths[None], 0, [length + 3, length + 5]
    if mode == "tree with a window":
        return masks, length + depths[None], 5, [length - 3, length - 1, length + 3]
    chain = length + torch.arange(9)[None]
    return None, chain, *((0, [length + 4, length + 5]) if mode == "chain" else (6, [length - 2, length + 1]))


@pytest.mark.parametrize("mode", ["tree", "tree with a window", "chain", "chain with a window"])
@pytest.mark.parametrize("wild", [math.inf, math.nan])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [33, 64])
def test_what_is_no_number_reaches_only_the_queries_that_see_it(head_dim, dtype, wild, mode):
    """In keys and in values, and the others keep all their bits. On CUDA tensor cores multiply what a chain or a window
    hides by 0, so that there only keys, and the values of a tree without windows, are left out."""
    generator = torch.Generator().manual_seed(head_dim)
    length = 70
    query, keys, values = inputs(1, 1, 3, 9, [length], 9, head_dim, dtype, generator)
    masks, positions, window, rows = planted(mode, length)
    lengths = torch.tensor([length], dtype=torch.int32)
    seen = visible(lengths, 9, 9, keys.shape[2], masks, positions, window)[0]
    for row in rows:
        for is_value in (False, True):
            wild_keys, wild_values = keys.clone(), values.clone()
            (wild_values if is_value else wild_keys)[0, 0, row] = wild
            for kernel in every_kernel():
                by_tensor_cores = kernel == "emulated CUDA" and head_dim == 64 and dtype != torch.float32
                if by_tensor_cores and is_value and mode != "tree":
                    continue
                rest = lengths, 9, masks, positions, 0.125, window
                clean = ops.tree_attention(query, keys, values, *rest)[0]
                output = ops.tree_attention(query, wild_keys, wild_values, *rest)[0]
                assert torch.equal(output[~seen[:, row]], clean[~seen[:, row]]), kernel
                if is_value:
                    assert not output[seen[:, row]].isfinite().any(), kernel


@pytest.mark.parametrize(("batch", "nodes"), [(0, 3), (2, 0)])
def test_empty(batch, nodes):
    output = ops.tree_attention(
        torch.zeros(batch, 2, nodes, 8),
        torch.zeros(batch, 1, 9, 8),
        torch.zeros(batch, 1, 9, 8),
        torch.zeros(batch, dtype=torch.int32),
        nodes,
        None,
        torch.zeros(batch, nodes, dtype=torch.int64),
        1.0,
    )
    assert output.shape == (batch, nodes, 2, 8)


def bad_call(**changes):
    arguments = {
        "query": torch.zeros(1, 4, 3, 8),
        "keys": torch.zeros(1, 2, 9, 8),
        "values": torch.zeros(1, 2, 9, 8),
        "lengths": torch.tensor([5], dtype=torch.int32),
        "tree_rows": 3,
        "masks": torch.zeros(1, 3, 1, dtype=torch.int64),
        "positions": torch.zeros(1, 3, dtype=torch.int64),
        "scale": 1.0,
        "window": 0,
    }
    return ops.tree_attention(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(1, 3, 3, 8)}, "query must have a multiple of the 2 heads of keys"),
        ({"query": torch.zeros(4, 3, 8)}, "query must have 4 dimensions"),
        ({"query": torch.zeros(1, 4, 3, 8).double()}, "query must be of type Float, Half or BFloat16, but is Double"),
        ({"keys": torch.zeros(1, 2, 9, 8).half()}, "keys must be of the same type as query, Float, but is Half"),
        ({"values": torch.zeros(1, 2, 8, 8)}, "values must have size 9 in dimension 2"),
        ({"values": torch.zeros(1, 2, 9, 16)[..., ::2]}, "values must be contiguous in its last dimension"),
        ({"lengths": torch.tensor([7], dtype=torch.int32)}, r"lengths\[0\] = 7 and 3 tree rows do not fit the 9 rows"),
        ({"lengths": torch.tensor([-1], dtype=torch.int32)}, r"lengths\[0\] = -1"),
        ({"lengths": torch.tensor([5])}, "lengths must be of type Int, but is Long"),
        ({"masks": torch.zeros(1, 3, 0, dtype=torch.int64)}, "masks must hold a bit for each of the 3 tree rows"),
        ({"masks": None, "tree_rows": 2}, "without masks or with a window, tree_rows must be the 3 rows of query"),
        ({"window": 4, "tree_rows": 2}, "without masks or with a window"),
        ({"longest": 7}, r"longest must be at least lengths\[0\] = 5 and the 3 tree rows together, but is 7"),
        ({"longest": 10}, "longest must be 3 to 9, but is 10"),
        ({"longest": -2}, "longest must be 3 to 9, but is -2"),
        ({"counters": torch.zeros(1024)}, "counters must be of type Int, but is Float"),
        ({"counters": torch.zeros(9, dtype=torch.int32)}, "counters must have size 1024 in dimension 0"),
        ({"window": -1}, r"window must be 0 \(none\) or more"),
        ({"window": 4, "positions": torch.zeros(1, 2, dtype=torch.int64)}, "positions must have size 3 in dimension 1"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
