"""merge_text against Python lists, and select_tree on what it has merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import BeamBuffers, Candidates, NodeBuffers, candidate_columns, every_kernel, random_candidates, strided
from operator_reference import merge_lists, select_nodes
from torch import Tensor

from ltd import ops
from ltd.errors import InputError

RUBBISH = 77
NOTHING: Candidates = ([], [], [])


def merge(
    heads: list[Candidates], texts: list[Candidates], most: int, roots: list[int], unused: int = 0, roomy: bool = False
) -> list[Tensor]:
    """What merge_text has written: tokens, scores, parents, sources, appended."""
    candidates = len(heads[0][0])
    columns = candidates + most + unused
    written = [*candidate_columns(heads, columns), torch.full((len(heads), columns), RUBBISH, dtype=torch.int8)]
    tokens, scores, parents = candidate_columns(texts, most)
    counts = torch.tensor([len(text[0]) for text in texts], dtype=torch.int32)
    given = [tokens, parents, scores]
    if roomy:
        written, given = [strided(tensor) for tensor in written], [strided(tensor) for tensor in given]
    written.append(torch.full((len(heads),), RUBBISH, dtype=torch.int32))
    ops.merge_text(*given, counts, candidates, torch.tensor(roots), *written)
    return written


def check(heads: list[Candidates], texts: list[Candidates], most: int, roots: list[int], **options) -> None:
    """Against the lists, by every kernel; what lies behind stays as it is."""
    rows = [merge_lists(head, text, most, root) for head, text, root in zip(heads, texts, roots, strict=True)]
    for _ in every_kernel():
        *columns, appended = merge(heads, texts, most, roots, **options)
        assert appended.tolist() == [row[4] for row in rows]
        for place, column in enumerate(columns):
            expected = torch.full_like(column, RUBBISH)
            for b, row in enumerate(rows):
                expected[b, : len(row[place])] = torch.tensor(row[place], dtype=column.dtype)
            torch.testing.assert_close(column, expected, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=150)
@given(
    batch=st.integers(1, 3),
    candidates=st.integers(0, 150),
    most=st.integers(0, 64),
    vocabulary=st.sampled_from([1, 2, 6, 1000]),
    unused=st.integers(0, 5),
    roomy=st.booleans(),
    data=st.data(),
)
def test_merging_matches_lists(batch, candidates, most, vocabulary, unused, roomy, data):
    """Rows of different counts; siblings of the same token, too."""
    counts = data.draw(st.lists(st.integers(0, most), min_size=batch, max_size=batch))
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    heads = [random_candidates(random, candidates, vocabulary, 8) for _ in range(batch)]
    texts = [random_candidates(random, count, vocabulary, 8) for count in counts]
    check(heads, texts, most, random.integers(0, 1000, batch).tolist(), unused=unused, roomy=roomy)


@settings(max_examples=80)
@given(
    batch=st.integers(1, 3),
    candidates=st.integers(0, 150),
    most=st.integers(0, 64),
    vocabulary=st.sampled_from([2, 6, 1000]),
    data=st.data(),
)
def test_a_tree_is_selected_from_both(batch, candidates, most, vocabulary, data):
    """Whatever was merged: parents are selected with their children, also in columns that only fill up."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    heads = [random_candidates(random, candidates, vocabulary, 8) for _ in range(batch)]
    texts = [random_candidates(random, int(random.integers(0, most + 1)), vocabulary, 8) for _ in range(batch)]
    roots, size = random.integers(0, 1000, batch).tolist(), data.draw(st.integers(0, candidates + most))
    lengths = random.integers(0, 5000, batch).tolist()
    rows = [merge_lists(head, text, most, root)[:3] for head, text, root in zip(heads, texts, roots, strict=True)]
    expected = NodeBuffers.filled(
        [select_nodes(*row, size, root) for row, root in zip(rows, roots, strict=True)], lengths
    )
    for _ in every_kernel():
        tokens, scores, parents, _, _ = merge(heads, texts, most, roots)
        buffers = NodeBuffers.new(batch, size + 1)
        where = torch.tensor(roots), torch.tensor(lengths, dtype=torch.int32)
        ops.select_tree(tokens, scores, parents, candidates + most, *where, *buffers.arguments())
        for name, tensor in vars(buffers).items():
            assert torch.equal(tensor, getattr(expected, name)), name


@pytest.mark.parametrize("depth", [1, 2, 3, 16])
def test_a_chain_along_a_drafted_path(depth):
    """The text agrees with the head for a while, goes on below its last level, and is verified as a whole."""
    torch.manual_seed(depth)
    width, levels = 3, 3
    drafted = BeamBuffers.new(1, width, levels)
    for level in range(levels):
        ops.expand_beam(2 * torch.randn(1, width if level else 1, 50), None, level, *drafted.arguments())
    count = drafted.tokens.shape[1]
    head = drafted.tokens[0].tolist(), drafted.scores[0].tolist(), drafted.parents[0].tolist()
    path = [int(drafted.scores[0, count - width**2 :].argmax()) + count - width**2]
    while head[2][path[0]] >= 0:
        path.insert(0, head[2][path[0]])
    tokens = ([head[0][c] for c in path] + list(range(50, 63)))[:depth]
    text = tokens, [-0.125 * (d + 1) for d in range(depth)], list(range(-1, depth - 1))
    check([head], [text], 16, [7])
    tokens, scores, parents, sources, appended = merge([head], [text], 16, [7])
    assert appended.item() == max(depth - levels, 0)
    assert sources[0, path[:depth]].tolist() == [3] * min(depth, levels)
    buffers = NodeBuffers.new(1, depth + 1)
    where = torch.tensor([7]), torch.tensor([20], dtype=torch.int32)
    scores = scores.where(sources >= 2, -math.inf)  # the text's alone
    ops.select_tree(tokens, scores, parents, count + 16, *where, *buffers.arguments())
    assert buffers.node_tokens[0].tolist() == [7, *text[0]]
    assert buffers.node_parents[0].tolist() == list(range(-1, depth))


HEAD: Candidates = ([4, 5, 4, 6, 5], [-1.0, -2.0, -1.5, -1.75, -3.0], [-1, -1, 0, 0, 1])


@pytest.mark.parametrize(
    ("text", "scores", "sources", "appended"),
    [
        (NOTHING, HEAD[1], [1] * 5, 0),
        # All merged: two raised, one that is lower, one that is equal.
        (
            ([4, 4, 6, 5], [-0.5, -1.25, -1.875, -2.0], [-1, 0, 0, -1]),
            [-0.5, -2.0, -1.25, -1.75, -3.0],
            [3, 3, 3, 3, 1],
            0,
        ),
        # None merged: other tokens, and the head's tokens below other parents.
        (([9, 4, 6], [-0.5, -0.5, -0.75], [-1, 0, -1]), [*HEAD[1], -0.5, -0.5, -0.75], [1] * 5 + [2] * 3, 3),
        # Below the head's last level, in a chain and beside it.
        (
            ([4, 6, 1, 2, 3], [-0.5, -0.5, -0.75, -1.0, -1.0], [-1, 0, 1, 2, 1]),
            [-0.5, -2.0, -1.5, -0.5, -3.0, -0.75, -1.0, -1.0],
            [3, 1, 1, 3, 1, 2, 2, 2],
            3,
        ),
        # -inf and NaN: neither raises anything.
        (([4, 5, 8, 9], [-math.inf, math.nan, math.nan, -math.inf], [-1, -1, -1, 2]), None, [3, 3, 1, 1, 1, 2, 2], 2),
    ],
)
def test_what_becomes_of_each(text, scores, sources, appended):
    most = 6
    check([HEAD], [text], most, [7])
    scores = [*HEAD[1], -math.inf, -math.inf] if scores is None else scores
    filling = most - appended
    for _ in every_kernel():
        merged = merge([HEAD], [text], most, [7])
        assert merged[4].tolist() == [appended]
        assert merged[1][0].tolist() == [*scores, *[-math.inf] * filling]
        assert merged[3][0].tolist() == [*sources, *[0] * filling]
        assert merged[0][0, 5 + appended :].tolist() == [7] * filling
        assert merged[2][0, 5 + appended :].tolist() == [-1] * filling


def test_scores_of_the_head_that_are_no_numbers():
    """NaN becomes the text's score, or -inf; where the text says nothing it stays."""
    head: Candidates = ([1, 2, 3], [math.nan] * 3, [-1] * 3)
    text: Candidates = ([1, 2], [-0.5, math.nan], [-1, -1])
    check([head], [text], 2, [0])
    for _ in every_kernel():
        scores = merge([head], [text], 2, [0])[1][0, :3].tolist()
        assert scores[:2] == [-0.5, -math.inf]
        assert math.isnan(scores[2])


def test_without_candidates_of_the_head():
    """The text's alone, as it proposed them."""
    text: Candidates = ([5, 6, 5], [-0.25, -0.5, -0.5], [-1, 0, 0])
    check([NOTHING], [text], 3, [7])
    for _ in every_kernel():
        tokens, scores, parents, sources, appended = merge([NOTHING], [text], 3, [7])
        assert (tokens[0].tolist(), scores[0].tolist(), parents[0].tolist()) == text
        assert (sources[0].tolist(), appended.tolist()) == ([2, 2, 2], [3])


def test_the_first_of_several_is_meant():
    """Draft ids may stand for the same token; the later ones have children of their own, which are not looked at."""
    head: Candidates = ([4, 4, 6], [-1.0, -1.0, -2.0], [-1, -1, 1])
    text: Candidates = ([4, 6], [-0.5, -0.75], [-1, 0])
    check([head], [text], 2, [0])
    for _ in every_kernel():
        _, scores, parents, sources, _ = merge([head], [text], 2, [0])
        assert scores[0].tolist() == [-0.5, -1.0, -2.0, -0.75, -math.inf]
        assert (parents[0, 3].item(), sources[0].tolist()) == (0, [3, 1, 1, 2, 0])


def test_the_largest_there_can_be():
    random = np.random.default_rng(0)
    for fertile in (8, None):
        heads = [random_candidates(random, 1984, 6, fertile) for _ in range(2)]
        texts = [random_candidates(random, 64, 6, fertile) for _ in range(2)]
        check(heads, texts, 64, [1, 2])


def test_parents_of_the_head_that_are_none():
    """No candidate of the text is below them."""
    head: Candidates = ([4, 4, 4, 4], [-1.0] * 4, [-2, 4, 2**31 - 1, -(2**31)])
    text: Candidates = ([4, 4], [-0.5, -0.5], [-1, 0])
    check([head], [text], 3, [0])


def bad_call(**changes):
    arguments = {
        "text_tokens": torch.zeros(1, 3, dtype=torch.int64),
        "text_parents": torch.tensor([[-1, 0, 1]], dtype=torch.int32),
        "text_scores": torch.zeros(1, 3),
        "text_counts": torch.tensor([3], dtype=torch.int32),
        "candidates": 4,
        "roots": torch.zeros(1, dtype=torch.int64),
        "tokens": torch.zeros(1, 8, dtype=torch.int64),
        "scores": torch.zeros(1, 8),
        "parents": torch.full((1, 8), -1, dtype=torch.int32),
        "sources": torch.zeros(1, 8, dtype=torch.int8),
        "appended": torch.zeros(1, dtype=torch.int32),
    }
    ops.merge_text(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_tokens": torch.zeros(1, 3).int()}, "text_tokens must be of type Long, but is Int"),
        ({"text_tokens": torch.zeros(1, 65).long()}, "text_tokens must have at most 64 columns, but its shape is"),
        ({"text_parents": torch.zeros(1, 3).long()}, "text_parents must be of type Int, but is Long"),
        ({"text_parents": torch.tensor([[-1, 1, 0]]).int()}, r"text_parents\[0\] must hold .* but holds 1 at 1"),
        ({"text_parents": torch.tensor([[-1, 0, -2]]).int()}, r"text_parents\[0\] must hold .* but holds -2 at 2"),
        ({"text_scores": torch.zeros(1, 4)}, "text_scores must have size 3 in dimension 1"),
        ({"text_counts": torch.tensor([4]).int()}, r"text_counts\[0\] must be 0 to 3, .* but is 4"),
        ({"text_counts": torch.tensor([-1]).int()}, r"text_counts\[0\] must be 0 to 3, .* but is -1"),
        ({"text_counts": torch.zeros(2).int()}, "text_counts must have size 1 in dimension 0"),
        ({"candidates": 6}, "candidates must be 0 to 5, so that 3 of the text fit behind them, but is 6"),
        ({"candidates": -1}, "candidates must be 0 to 5, so that 3 of the text fit behind them, but is -1"),
        ({"tokens": torch.zeros(1, 2).long()}, "tokens must have a column for each of the 3 candidates of the text"),
        ({"roots": torch.zeros(1).int()}, "roots must be of type Long, but is Int"),
        ({"scores": torch.zeros(1, 8).double()}, "scores must be of type Float, but is Double"),
        ({"scores": torch.zeros(1, 7)}, "scores must have size 8 in dimension 1"),
        ({"parents": torch.zeros(1, 9).int()}, "parents must have size 8 in dimension 1"),
        ({"sources": torch.zeros(1, 8).byte()}, "sources must be of type Char, but is Byte"),
        ({"appended": torch.zeros(1).long()}, "appended must be of type Int, but is Long"),
        ({"tokens": torch.zeros(1, 16).long()[:, ::2]}, "tokens must be contiguous in its last dimension"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)


def test_no_more_than_select_tree_can_choose_from():
    wide = {
        "tokens": torch.zeros(1, 3000).long(),
        "scores": torch.zeros(1, 3000),
        "parents": torch.full((1, 3000), -1, dtype=torch.int32),
        "sources": torch.zeros(1, 3000).char(),
    }
    bad_call(**wide, candidates=2045)
    with pytest.raises(InputError, match="candidates must be 0 to 2045, so that 3 of the text fit behind them"):
        bad_call(**wide, candidates=2046)
