"""Drawn trees: their shape, which no token changes, and what their nodes were drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_reference import place_noise

from ltd.errors import InputError
from ltd.noise import SharedNoise
from ltd.ops import Noise
from ltd.rejection.distributions import floats
from ltd.rejection.shape import FALL, FIRST_CHANCE, Place, Shape, chance, ranked_shape
from ltd.rejection.tree import DrawnNodes, DrawnTree

SEED, VOCABULARY, WORDS = 11, 40, 24
CPU = torch.device("cpu")


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Of up to 4 expansions and 40 nodes, as far as there are so many."""
    depth, width = draw(st.integers(0, 4)), draw(st.integers(1, 6))
    return ranked_shape(depth, draw(st.integers(depth + 1, min(40, most(depth, width)))), width)


def most(depth: int, width: int) -> int:
    """How many places there are: W children of the root, and of each of W nodes of every level but the last."""
    return width + depth * width * width


@given(shapes())
def test_a_shape_is_a_tree_with_the_chain_of_first_children(shape: Shape) -> None:
    places = set(shape.places)
    assert len(places) == shape.size == len(shape.places)
    for place in places:
        assert place[:-1] in places or len(place) == 1
        assert place[-1] == 0 or (*place[:-1], place[-1] - 1) in places
    assert (0,) * (shape.depth + 1) in places and max(map(len, places)) == shape.depth + 1
    for level in range(shape.depth + 1):
        expanded = {place[:-1] for place in places if len(place) == level + 1}
        assert 1 <= len(expanded) <= shape.width
        assert expanded == {shape.nodes[number] for number in shape.beams[level]}
    assert all(len(one) <= len(other) for one, other in pairwise(shape.places))


@given(st.integers(0, 4), st.integers(1, 12))
def test_beside_the_chain_stand_the_likeliest_places(depth: int, more: int) -> None:
    """Where the beam's width is no limit: none that is left out, and could be in, is likelier than one that is in."""
    shape = ranked_shape(depth, depth + 1 + more, 16)
    chosen = [place for place in shape.places if any(place)]
    numbers = [*(place for place in shape.nodes if len(place) <= depth)]
    offered = [(*place, len(shape.children[shape.numbers[place]])) for place in numbers]
    assert min(map(plain_chance, chosen)) >= max(plain_chance(place) for place in offered) * (1 - 1e-12)


def plain_chance(place: Place) -> float:
    return math.prod(FIRST_CHANCE / (rank + 1) ** FALL for rank in place)


def test_shapes_by_hand() -> None:
    assert ranked_shape(0, 3, 4).places == ((0,), (1,), (2,))
    assert ranked_shape(2, 3, 4).places == ((0,), (0, 0), (0, 0, 0))
    shape = ranked_shape(1, 5, 4)
    assert shape.places == ((0,), (1,), (2,), (3,), (0, 0))
    assert (shape.parents, shape.children[0], shape.beams) == ([-1, 0, 0, 0, 0, 1], [1, 2, 3, 4], [[0], [1]])
    assert shape.candidates == [-1, 0, 1, 2, 3, 4]
    assert ranked_shape(1, 6, 2).places == ((0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1))
    assert chance((0, 0)) == 1.0 and chance((1,)) == pytest.approx(FIRST_CHANCE * 2**-FALL)


@pytest.mark.parametrize(
    ("depth", "size", "width", "message"),
    [
        (2, 2, 4, "a drawn tree of depth 2 needs a size of at least 3, one candidate a level, not 2"),
        (0, 0, 4, "needs a size of at least 1"),
        (0, 5, 4, "depth 0 and beam width 4 has at most 4 candidates, not 5"),
        (1, 7, 2, "depth 1 and beam width 2 has at most 6 candidates, not 7"),
    ],
)
def test_trees_that_cannot_be(depth: int, size: int, width: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ranked_shape(depth, size, width)


@dataclass
class Grown:
    """A tree from random logits.

    Attributes:
        levels: the logits. words: the target's ids of the draft's. beams: tokens and rows of each level's next beam.
    """

    tree: DrawnTree
    nodes: DrawnNodes
    levels: list[torch.Tensor]
    words: torch.Tensor
    beams: list[tuple[torch.Tensor, torch.Tensor]]


def grown(shape: Shape, temperature: float, seed: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Grown:
    """A tree of rows 3, 4, … whose roots stand at 7, 8, …"""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randperm(VOCABULARY, generator=generator)[:WORDS].sort().values
    noise = Noise.new(batch, VOCABULARY, range(3, 3 + batch), CPU, 8)
    noise.restart(SEED, range(3, 3 + batch))
    tree = DrawnTree(batch, shape, CPU)
    tree.begin(torch.arange(batch), torch.arange(7, 7 + batch, dtype=torch.int32))
    levels, beams = list[torch.Tensor](), []
    for level in range(shape.depth + 1):
        rows = shape.width if level else 1
        levels.append((2 * torch.randn(batch, rows, WORDS, generator=generator)).to(dtype))
        given_logits = levels[-1].clone()
        tree.expand(given_logits, words - torch.arange(WORDS), SharedNoise(noise, temperature))
        given_logits.fill_(float("nan"))  # a draft may write its next level there
        beams.append((tree.beam_tokens.clone(), tree.beam_rows.clone()))
    return Grown(tree, tree.select(shape.size), levels, words, beams)


@settings(max_examples=30)
@given(
    shapes(), st.sampled_from([0.5, 1.0, 1.6]), st.integers(0, 1000), st.sampled_from([torch.float32, torch.bfloat16])
)
def test_children_are_drawn_without_replacement_from_what_is_kept(
    shape: Shape, temperature: float, seed: int, dtype: torch.dtype
) -> None:
    """They are the largest of logits / temperature + noise, in order, by the reference's noise, and all different."""
    made = grown(shape, temperature, seed, dtype=dtype)
    nodes, words = made.nodes, made.words.numpy()
    for sequence in range(2):
        for number, children in enumerate(shape.children):
            if not children:
                continue
            level, row = len(shape.nodes[number]), shape.beam_rows[number]
            logits = made.levels[level][sequence, row].float().numpy()
            np.testing.assert_array_equal(floats(nodes.proposal(sequence, number)), logits)
            noise = place_noise(SEED, 3 + sequence, 7 + sequence + level, VOCABULARY)[words]
            order = np.argsort(-(logits / temperature + noise))
            tokens = nodes.tokens[sequence, children].tolist()
            assert tokens == words[order[: len(children)]].tolist()
            assert len(set(tokens)) == len(tokens)


@settings(max_examples=30)
@given(shapes(), st.integers(0, 1000))
def test_nodes_are_those_of_the_shape(shape: Shape, seed: int) -> None:
    made = grown(shape, 1.0, seed)
    tree, nodes = made.tree, made.nodes
    for number, place in enumerate(shape.nodes):
        ancestors = {shape.numbers[place[:end]] for end in range(len(place) + 1)}
        siblings = shape.children[shape.parents[number]] if number else [0]
        after = siblings[siblings.index(number) + 1 :]
        for sequence in range(2):
            assert bits(nodes.masks[sequence, number]) == ancestors
            assert int(nodes.positions[sequence, number]) == 7 + sequence + len(place)
            assert int(nodes.parents[sequence, number]) == shape.parents[number]
            assert int(nodes.first_child[sequence, number]) == (shape.children[number] or [-1])[0]
            assert int(nodes.next_sibling[sequence, number]) == (after or [-1])[0]
            candidate = int(nodes.candidates[sequence, number])
            assert int(nodes.tokens[sequence, number]) == int(
                tree.tokens[sequence, candidate] if number else tree.roots[sequence]
            )
            if number:
                parent = shape.parents[number]
                wanted = shape.candidates[parent] if parent else -1
                assert int(tree.parents[sequence, candidate]) == wanted


@settings(max_examples=30)
@given(shapes(), st.integers(0, 1000))
def test_the_draft_goes_on_from_the_nodes_that_have_children(shape: Shape, seed: int) -> None:
    made = grown(shape, 1.0, seed)
    tree, nodes = made.tree, made.nodes
    for level in range(shape.depth):
        for row, number in enumerate(shape.beams[level + 1]):
            place = shape.nodes[number]
            path = [shape.beam_rows[shape.numbers[place[: end + 1]]] for end in range(level + 1)]
            seen = {end * shape.width + beam_row for end, beam_row in enumerate(path)}
            for sequence in range(2):
                assert bits(tree.beam_masks[sequence, level, row]) == seen
                assert int(tree.beam_nodes[sequence, level, row]) == shape.candidates[number]
        assert bits(tree.beam_masks[0, level, shape.width - 1]) >= {level * shape.width + shape.width - 1}
        tokens, rows = made.beams[level]
        beam = shape.beams[level + 1]
        assert tokens[:, : len(beam)].tolist() == nodes.tokens[:, beam].tolist()
        assert rows[:, : len(beam)].tolist() == [[shape.beam_rows[shape.parents[number]] for number in beam]] * 2


def bits(mask: torch.Tensor) -> set[int]:
    """The numbers of the bits that are set in int64 words."""
    return {64 * word + bit for word, value in enumerate(mask.tolist()) for bit in range(64) if value >> bit & 1}


def test_no_token_changes_the_shape() -> None:
    """Two trees with the same shape from other logits: all but tokens is the same."""
    shape = ranked_shape(3, 14, 4)
    one, other = (grown(shape, 1.0, seed).nodes for seed in (1, 2))
    for name in ("parents", "positions", "masks", "first_child", "next_sibling", "candidates"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(one.tokens, other.tokens)
