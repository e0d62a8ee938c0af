"""expand_beam against Python lists and float64 softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_cases import DTYPES, BeamBuffers, every_kernel, near_tie, strided
from operator_reference import ListTree, pack, top_log_probabilities

from ltd import ops
from ltd.errors import InputError


def grow(logits: list[torch.Tensor], d2t: torch.Tensor | None, buffers: BeamBuffers) -> None:
    for level, level_logits in enumerate(logits):
        ops.expand_beam(level_logits, d2t, level, *buffers.arguments())


def check_row(buffers: BeamBuffers, b: int, tree: ListTree) -> None:
    levels, width = len(tree.beams), tree.width
    assert buffers.tokens[b].tolist() == tree.tokens
    assert buffers.parents[b].tolist() == tree.parents
    np.testing.assert_allclose(buffers.scores[b].numpy(), tree.scores, rtol=1e-5, atol=1e-5)
    assert buffers.beam_nodes[b].tolist() == tree.beams
    assert buffers.beam_rows[b].tolist() == tree.beam_rows
    assert buffers.beam_tokens[b].tolist() == [tree.tokens[c] for c in tree.beams[-1]]
    for level in range(levels):
        seen = pack([tree.visible_beam_rows(level, w) for w in range(width)], buffers.beam_masks.shape[3])
        assert torch.equal(buffers.beam_masks[b, level], seen)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    width=st.integers(1, 16),
    levels=st.integers(1, 7),
    extra=st.integers(0, 1200),
    dtype=st.sampled_from(DTYPES),
    mapped=st.booleans(),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_whole_trees_match_the_list_oracle(batch, width, levels, extra, dtype, mapped, roomy, seed):
    generator = torch.Generator().manual_seed(seed)
    vocabulary = width + extra
    d2t = torch.randint(0, 50, (vocabulary,), generator=generator) if mapped else None
    logits = [3 * torch.randn(batch, width if level else 1, vocabulary, generator=generator) for level in range(levels)]
    logits = [(strided(x) if roomy else x).to(dtype) for x in logits]
    trees = []
    for b in range(batch):
        tree = ListTree(width)
        for x in logits:
            tree.expand(x[b].float().numpy(), d2t.tolist() if mapped else None)
        trees.append(tree)
    # 16-bit logits make exact ties, which are well defined, but scores that are nearly equal are left to rounding.
    assume(not any(near_tie(tree) for tree in trees))
    for _ in every_kernel():
        buffers = BeamBuffers.new(batch, width, levels, roomy)
        grow(logits, d2t, buffers)
        for b, tree in enumerate(trees):
            check_row(buffers, b, tree)


@settings(max_examples=40)
@given(
    width=st.integers(1, 16),
    values=st.lists(st.sampled_from([-math.inf, math.nan, -2.0, 0.0, -0.0, 1.0, 1.5]), min_size=16, max_size=1100),
    dtype=st.sampled_from(DTYPES),
)
def test_ties_infinities_and_nan(width, values, dtype):
    row = torch.tensor(values).to(dtype)
    expected = top_log_probabilities(row.float().numpy(), width)
    for _ in every_kernel():
        buffers = BeamBuffers.new(1, width, 2)
        grow([row.view(1, 1, -1), row.expand(1, width, -1)], None, buffers)
        assert buffers.tokens[0, :width].tolist() == [token for token, _ in expected]
        np.testing.assert_allclose(buffers.scores[0, :width].numpy(), [p for _, p in expected], rtol=1e-6, atol=1e-6)
        # The beam by the operator's own scores, whose rounding is not at issue here.
        scores = buffers.scores[0, width:].tolist()
        best = sorted(range(width * width), key=lambda i: (-scores[i], i))[:width]
        assert buffers.beam_nodes[0, 1].tolist() == [width + i for i in best]
        assert not torch.isnan(buffers.scores).any()


def test_rows_without_a_distribution_score_minus_infinity():
    rows = torch.stack([torch.full((40,), -math.inf), torch.full((40,), math.nan), torch.zeros(40)])
    rows[2, 7] = math.inf
    for _ in every_kernel():
        buffers = BeamBuffers.new(3, 4, 1)
        grow([rows[:, None]], None, buffers)
        assert torch.equal(buffers.scores, torch.full((3, 4), -math.inf))
        assert buffers.tokens.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [7, 0, 1, 2]]


def test_a_child_never_scores_above_its_parent():
    logits = torch.full((1, 1, 700), -200.0)
    logits[0, 0, 3] = 90.0
    for _ in every_kernel():
        buffers = BeamBuffers.new(1, 2, 4)
        grow([logits, *[logits.expand(1, 2, -1)] * 3], None, buffers)
        children = buffers.parents[0] >= 0
        parents = buffers.parents[0][children].long()
        assert (buffers.scores[0][children] <= buffers.scores[0][parents]).all()
        assert buffers.scores[0, 0] == 0.0


@pytest.mark.parametrize(("width", "levels", "vocabulary"), [(10, 13, 8192), (16, 8, 32000), (10, 2, 262144)])
def test_largest_sizes(width, levels, vocabulary):
    torch.manual_seed(levels)
    logits = [torch.randn(1, width if level else 1, vocabulary) for level in range(levels)]
    for _ in every_kernel():
        buffers = BeamBuffers.new(1, width, levels)
        grow(logits, None, buffers)
        for level in (0, levels - 1):
            rows = width if level else 1
            first = 0 if level == 0 else width + (level - 1) * width * width
            exact = torch.log_softmax(logits[level][0].double(), dim=-1).topk(width)
            assert torch.equal(buffers.tokens[0, first : first + rows * width].view(rows, width), exact.indices)
            before = buffers.scores[0, buffers.beam_nodes[0, level - 1].long()].double() if level else torch.zeros(1)
            expected = before[:, None] + exact.values
            torch.testing.assert_close(
                buffers.scores[0, first : first + rows * width].view(rows, width).double(), expected, rtol=0, atol=2e-5
            )


def bad_call(**changes):
    buffers = BeamBuffers.new(2, 3, 2)
    arguments = {"logits": torch.zeros(2, 1, 20), "d2t": None, "level": 0, **vars(buffers)}
    ops.expand_beam(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(2, 3, 20)}, r"logits must have size 1 in dimension 1, .*\[2, 3, 20\]"),
        ({"logits": torch.zeros(2, 1, 2)}, r"logits must have at least as many columns as the beam is wide, 3"),
        ({"logits": torch.zeros(2, 1, 20, dtype=torch.float64)}, "logits must be of type Float, Half or BFloat16"),
        ({"logits": torch.zeros(2, 1, 40)[..., ::2]}, "logits must be contiguous in its last dimension"),
        ({"logits": torch.zeros(1, 1, 20)}, "logits must have size 2 in dimension 0"),
        ({"d2t": torch.zeros(19, dtype=torch.int64)}, "d2t must have size 20 in dimension 0"),
        ({"d2t": torch.zeros(20)}, "d2t must be of type Long, but is Float"),
        ({"level": 13}, "level must be 0 to 12, but is 13"),
        ({"level": -1}, "level must be 0 to 12, but is -1"),
        ({"level": 2, "logits": torch.zeros(2, 3, 20)}, "tokens must have 21 to 2048 columns for level 2 of width 3"),
        ({"scores": torch.zeros(2, 11)}, "scores must have size 12 in dimension 1"),
        ({"parents": torch.zeros(2, 12)}, "parents must be of type Int, but is Float"),
        ({"beam_nodes": torch.zeros(2, 0, 3, dtype=torch.int32)}, "beam_nodes must have more than 0 levels"),
        ({"beam_tokens": torch.zeros(2, 17, dtype=torch.int64)}, "must be 1 to 16, but is 17"),
        ({"beam_masks": torch.zeros(2, 2, 3, 0, dtype=torch.int64)}, "beam_masks must hold a bit for each"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
