"""gather_accepted against indexing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import every_kernel, strided

from ltd import ops
from ltd.errors import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8)


@settings(max_examples=50)
@given(
    batch=st.integers(0, 3),
    nodes=st.integers(1, 60),
    places=st.integers(1, 14),
    size=st.sampled_from([None, 0, 1, 3, 8, 40, 300, 2048]),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_what_counts_is_gathered_and_the_rest_is_zero(batch, nodes, places, size, dtype, roomy, seed):
    generator = torch.Generator().manual_seed(seed)
    integers = lambda most, *shape: torch.randint(most, shape, generator=generator)  # noqa: E731
    path, tokens = integers(nodes, batch, places).int(), integers(2**40, batch, places)
    gained = integers(places + 1, batch).int()
    for b, count in enumerate(gained.tolist()):  # behind the end anything may stand
        path[b, count:], tokens[b, count:] = -7, -8
    features = None if size is None else integers(100, batch, nodes, size).to(dtype)
    if roomy:
        path, tokens, features = strided(path), strided(tokens), None if features is None else strided(features)
    for _ in every_kernel():
        gathered = None if size is None else torch.full((batch, places, size), 99, dtype=dtype)
        roots, report = torch.full((batch,), 55), torch.full((batch, 2 + places), 99)
        ops.gather_accepted(features, path, tokens, gained, gathered, roots, report)
        for b, count in enumerate(gained.tolist()):
            root = tokens[b, count - 1].item() if count else 55
            assert roots[b] == root
            assert report[b].tolist() == [count, root, *tokens[b, :count].tolist(), *[0] * (places - count)]
            if gathered is not None:
                assert torch.equal(gathered[b, :count], features[b, path[b, :count].long()])
                assert not gathered[b, count:].any()


def bad_call(**changes):
    arguments = {
        "features": torch.zeros(1, 4, 6),
        "path": torch.tensor([[0, 3]], dtype=torch.int32),
        "tokens": torch.tensor([[5, 6]]),
        "gained": torch.tensor([2], dtype=torch.int32),
        "gathered": torch.zeros(1, 2, 6),
        "roots": torch.tensor([1]),
        "report": torch.zeros(1, 4, dtype=torch.int64),
    }
    ops.gather_accepted(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "features and gathered must be given together"),
        ({"gathered": None}, "features and gathered must be given together"),
        ({"gathered": torch.zeros(1, 2, 6).half()}, "gathered must be of the same type as features"),
        ({"gathered": torch.zeros(1, 3, 6)}, r"gathered must have size 2 in dimension 1"),
        ({"report": torch.zeros(1, 3, dtype=torch.int64)}, "report must have size 4 in dimension 1"),
        ({"gained": torch.tensor([3], dtype=torch.int32)}, r"gained\[0\] must be 0 to 2, .* but is 3"),
        ({"path": torch.tensor([[0, 4]], dtype=torch.int32)}, r"path\[0\] must be 0 to 3, .* but holds 4"),
        ({"features": torch.zeros(1, 0, 6)}, r"path\[0\] must be 0 to -1, .* but holds 0"),
        ({"path": torch.zeros(1, 600, dtype=torch.int32)}, "the size of path in dimension 1 must be 0 to 513"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
