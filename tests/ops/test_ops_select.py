"""select_tree against Python lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from emulated import emulated_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import BeamBuffers, NodeBuffers, candidate_columns, every_kernel, random_candidates, strided
from operator_reference import ListTree, select_nodes, unpack

from ltd import ops
from ltd.errors import InputError
from official_tree import OfficialNodes, OfficialTree, accept_official


def check(buffers: NodeBuffers, expected: NodeBuffers) -> None:
    for name, tensor in vars(buffers).items():
        wanted = getattr(expected, name)
        if name == "masks":
            assert not tensor[..., wanted.shape[2] :].any()
            tensor = tensor[..., : wanted.shape[2]]
        assert torch.equal(tensor, wanted), name


@settings(max_examples=150)
@given(
    batch=st.integers(1, 3),
    count=st.integers(0, 200),
    unused=st.integers(0, 5),
    more_words=st.integers(0, 2),
    roomy=st.booleans(),
    data=st.data(),
)
def test_selection_matches_lists(batch, count, unused, more_words, roomy, data):
    size = data.draw(st.integers(0, count))
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows = [random_candidates(random, count) for _ in range(batch)]
    roots, lengths = random.integers(0, 1000, batch).tolist(), random.integers(0, 5000, batch).tolist()
    columns = candidate_columns(rows, count + unused)
    if roomy:
        columns = [strided(column) for column in columns]
    nodes = [select_nodes(*row, size, root) for row, root in zip(rows, roots, strict=True)]
    expected = NodeBuffers.filled(nodes, lengths)
    for _ in every_kernel():
        buffers = NodeBuffers.new(batch, size + 1, -(-(size + 1) // 64) + more_words, roomy)
        ops.select_tree(
            *columns, count, torch.tensor(roots), torch.tensor(lengths, dtype=torch.int32), *buffers.arguments()
        )
        check(buffers, expected)


@settings(max_examples=15)
@given(width=st.integers(1, 10), levels=st.integers(1, 9), size=st.integers(0, 512), seed=st.integers(0, 2**31))
def test_drafted_trees_are_closed_and_keep_siblings_in_score_order(width, levels, size, seed):
    torch.manual_seed(seed)
    drafted = BeamBuffers.new(1, width, levels)
    for level in range(levels):
        ops.expand_beam(4 * torch.randn(1, width if level else 1, 64), None, level, *drafted.arguments())
    count = drafted.tokens.shape[1]
    size = min(size, count)
    buffers = NodeBuffers.new(1, size + 1)
    ops.select_tree(
        drafted.tokens,
        drafted.scores,
        drafted.parents,
        count,
        torch.tensor([5]),
        torch.tensor([70], dtype=torch.int32),
        *buffers.arguments(),
    )
    scores, parents = drafted.scores[0].tolist(), drafted.parents[0].tolist()
    nodes = select_nodes(drafted.tokens[0].tolist(), scores, parents, size, 5)
    check(buffers, NodeBuffers.filled([nodes], [70]))
    for node, sibling in enumerate(buffers.next_sibling[0].tolist()):
        if sibling >= 0:
            left, right = buffers.node_candidates[0, [node, sibling]].tolist()
            assert parents[left] == parents[right]
            assert scores[left] >= scores[right]


def test_largest_tree():
    random = np.random.default_rng(0)
    tokens, scores, parents = random_candidates(random, 2048)
    columns = candidate_columns([(tokens, scores, parents)], 2048)
    expected = NodeBuffers.filled([select_nodes(tokens, scores, parents, 512, 1)], [9])
    for _ in every_kernel():
        buffers = NodeBuffers.new(1, 513)
        ops.select_tree(*columns, 2048, torch.tensor([1]), torch.tensor([9], dtype=torch.int32), *buffers.arguments())
        check(buffers, expected)
        assert torch.equal(unpack(buffers.masks, 513).sum(-1) - 1 + 9, buffers.positions)


@pytest.mark.parametrize("seed", range(3))
def test_the_official_way_of_building_trees_gives_the_same(seed):
    """The default sizes: W 10, D 8, V 60, 8,192 draft tokens."""
    torch.manual_seed(seed)
    official, listed, drafted = OfficialTree(10), ListTree(10), BeamBuffers.new(1, 10, 9)
    d2t = torch.randint(0, 1000, (8192,))
    for level in range(9):
        logits = 3 * torch.randn(1, 10 if level else 1, 8192)
        official.expand(logits[0], d2t)
        listed.expand(logits[0].numpy(), d2t.tolist())
        ops.expand_beam(logits, d2t, level, *drafted.arguments())
    lengths = torch.tensor([512], dtype=torch.int32)
    buffers = NodeBuffers.new(1, 61)
    ops.select_tree(
        drafted.tokens, drafted.scores, drafted.parents, 810, torch.tensor([5]), lengths, *buffers.arguments()
    )
    scores = [float(score) for score in listed.scores]
    check(buffers, NodeBuffers.filled([select_nodes(listed.tokens, scores, listed.parents, 60, 5)], [512]))
    nodes = official.select(60, root=5)
    assert buffers.node_tokens[0].tolist() == nodes.tokens.tolist()
    assert buffers.node_parents[0].tolist() == nodes.parents
    assert torch.equal(buffers.positions[0] - 512, nodes.depths)
    assert torch.equal(unpack(buffers.masks[0], 61), nodes.mask)
    beam = unpack(drafted.beam_masks[0, 8], 90)
    assert torch.equal(beam, official.visible.bool())
    assert drafted.beam_tokens[0].tolist() == official.beam_tokens.tolist()
    check_greedy_path(buffers, nodes)


def check_greedy_path(buffers: NodeBuffers, nodes: OfficialNodes) -> None:
    """Verification by the official path table and by accept_greedy, on logits that agree with one path for a while."""
    logits = torch.randn(1, 61, 9300)
    longest = nodes.paths[(nodes.paths >= 0).sum(dim=1).argmax()].tolist()
    for node, child in itertools.pairwise(longest[:4]):
        logits[0, node, nodes.tokens[child]] = 10.0
    row, length, bonus = accept_official(logits[0], nodes)
    assert length >= 3
    walked, gained_tokens = torch.zeros(1, 12, dtype=torch.int32), torch.zeros(1, 12, dtype=torch.int64)
    gained = torch.zeros(1, dtype=torch.int32)
    ops.accept_greedy(
        logits, buffers.node_tokens, buffers.first_child, buffers.next_sibling, walked, gained_tokens, gained
    )
    assert gained == length + 1
    assert walked[0, : length + 1].tolist() == nodes.paths[row, : length + 1].tolist()
    assert gained_tokens[0, length] == bonus


@pytest.mark.parametrize(
    ("parents", "repaired"),
    [
        ([-1, 0, 1, 2, 3, 4], [-1, 0, 1, -1, 3, 4]),
        ([-1, 0, 1, 4, 9, 2**31 - 1], [-1, 0, 1, -1, -1, -1]),
        ([-1, 0, 1, -2, -(2**31), 5], [-1, 0, 1, -1, -1, -1]),
    ],
)
def test_cuda_hangs_nodes_without_a_selected_parent_below_the_root(parents, repaired):
    tokens, scores, lengths = list(range(10, 16)), [float(i) for i in range(6)], torch.tensor([4], dtype=torch.int32)
    columns = torch.tensor([tokens]), torch.tensor([scores]), torch.tensor([parents], dtype=torch.int32)
    buffers = NodeBuffers.new(1, 4)
    with emulated_kernels(seed=1):
        ops.select_tree(*columns, 6, torch.tensor([7]), lengths, *buffers.arguments())
    check(buffers, NodeBuffers.filled([select_nodes(tokens, scores, repaired, 3, 7)], [4]))


def bad_call(**changes):
    arguments = {
        "tokens": torch.zeros(1, 6, dtype=torch.int64),
        "scores": -torch.arange(6.0).view(1, 6),
        "parents": torch.tensor([[-1, 0, 1, 2, 3, 4]], dtype=torch.int32),
        "candidates": 6,
        "roots": torch.zeros(1, dtype=torch.int64),
        "lengths": torch.zeros(1, dtype=torch.int32),
        **vars(NodeBuffers.new(1, 4)),
    }
    ops.select_tree(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 7}, "candidates must be 0 to 6, but is 7"),
        ({"candidates": 2}, "node_tokens must have 1 column for the root and at most 2"),
        ({"scores": torch.zeros(1, 5)}, "scores must have size 6 in dimension 1"),
        ({"scores": torch.zeros(1, 6, dtype=torch.float64)}, "scores must be of type Float, but is Double"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "lengths must have size 1 in dimension 0"),
        ({"masks": torch.zeros(1, 4, 0, dtype=torch.int64)}, "masks must hold a bit for each of the 4 nodes"),
        ({"scores": torch.arange(6.0).view(1, 6)}, "candidate 3 was selected without its parent"),
        ({"parents": torch.full((1, 6), 5, dtype=torch.int32)}, "candidate 0 was selected without its parent"),
        ({"parents": torch.full((1, 6), -2, dtype=torch.int32)}, "candidate 0 was selected without its parent"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
