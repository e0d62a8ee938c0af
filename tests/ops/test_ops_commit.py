"""commit_path against row by row copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import every_kernel, strided

from ltd import ops
from ltd.errors import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8)


@settings(max_examples=60)
@given(
    layers=st.integers(1, 3),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    advance=st.booleans(),
    data=st.data(),
)
def test_rows_are_moved_in_place(layers, batch, heads, head_dim, dtype, roomy, advance, data):
    nodes = data.draw(st.integers(1, 70))
    lengths = data.draw(st.lists(st.integers(0, 50), min_size=batch, max_size=batch))
    paths = [sorted(data.draw(st.sets(st.integers(0, nodes - 1), max_size=12))) for _ in range(batch)]
    shape = (layers, batch, heads, max(lengths) + nodes, head_dim)
    keys, values = (torch.randint(-100, 100, shape).to(dtype) for _ in range(2))
    path = torch.full((batch, 13), -7, dtype=torch.int32)
    for b, row in enumerate(paths):
        path[b, : len(row)] = torch.tensor(row)
    if roomy:
        keys, values, path = strided(keys), strided(values), strided(path)
    expected = []
    for cache in (keys.clone(), values.clone()):
        before = cache.clone()
        for b, (length, row) in enumerate(zip(lengths, paths, strict=True)):
            for i, node in enumerate(row):
                cache[:, b, :, length + i] = before[:, b, :, length + node]
        expected.append(cache)
    kept = torch.tensor(lengths, dtype=torch.int32)
    gained = torch.tensor([len(row) for row in paths], dtype=torch.int32)
    originals = keys, values
    for _ in every_kernel():
        keys, values = (strided(cache) if roomy else cache.clone() for cache in originals)
        prefixes = kept.clone()
        ops.commit_path(keys, values, path, gained, prefixes, advance)
        assert torch.equal(keys, expected[0])
        assert torch.equal(values, expected[1])
        assert torch.equal(prefixes, kept + gained if advance else kept)


def test_a_cache_large_enough_for_several_threads():
    torch.manual_seed(0)
    original = torch.randn(40, 1, 8, 100, 128)
    path = torch.tensor([[0, 3, 9, 20, 41, 77]], dtype=torch.int32)
    for _ in every_kernel():
        keys, values = original.clone(), -original
        ops.commit_path(keys, values, path, torch.tensor([6], dtype=torch.int32), torch.tensor([10], dtype=torch.int32))
        expected = original.clone()
        expected[:, :, :, 10:16] = original[:, :, :, 10 + path[0].long()]
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)


def test_a_prefix_grows_where_nothing_is_moved():
    """Gains that stand where they belong already, none at all, and a cache without layers."""
    path = torch.tensor([[0, 1], [0, 0]], dtype=torch.int32)
    gained = torch.tensor([2, 0], dtype=torch.int32)
    for _ in every_kernel():
        for layers in (0, 1):
            keys, lengths = torch.randn(layers, 2, 1, 9, 4), torch.tensor([3, 4], dtype=torch.int32)
            ops.commit_path(keys, keys.clone(), path, gained, lengths, advance=True)
            assert lengths.tolist() == [5, 4]


def bad_call(**changes):
    arguments = {
        "keys": torch.zeros(2, 1, 2, 9, 4),
        "values": torch.zeros(2, 1, 2, 9, 4),
        "path": torch.tensor([[0, 2, 3]], dtype=torch.int32),
        "gained": torch.tensor([3], dtype=torch.int32),
        "lengths": torch.tensor([5], dtype=torch.int32),
    }
    ops.commit_path(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(2, 1, 2, 9, 5)}, "values must have size 4 in dimension 4"),
        ({"values": torch.zeros(2, 1, 2, 9, 4).half()}, "values must be of the same type as keys"),
        ({"keys": torch.zeros(1, 2, 9, 4)}, "keys must have 5 dimensions"),
        ({"gained": torch.tensor([4], dtype=torch.int32)}, r"gained\[0\] must be 0 to 3, .* but is 4"),
        ({"gained": torch.tensor([-1], dtype=torch.int32)}, r"gained\[0\] must be 0 to 3, .* but is -1"),
        (
            {"path": torch.tensor([[0, 3, 3]], dtype=torch.int32)},
            r"path\[0\] must be strictly increasing .* holds 3 at 2",
        ),
        ({"path": torch.tensor([[-1, 0, 1]], dtype=torch.int32)}, r"path\[0\] must be strictly increasing"),
        ({"path": torch.tensor([[0, 1, 4]], dtype=torch.int32)}, r"path\[0\] = 4 behind 5 prefix rows lies outside"),
        ({"path": torch.tensor([[0, 1, 2]])}, "path must be of type Int, but is Long"),
        ({"lengths": torch.tensor([-3], dtype=torch.int32)}, "behind -3 prefix rows"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
