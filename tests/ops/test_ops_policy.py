"""depth_action and size_action against float64 networks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from length_ranges import length_ranges
from op_cases import every_kernel, strided
from operator_reference import nearest, network, observation

from ltd import ops
from ltd.errors import InputError
from ltd.policies.learned.observation import ANY_LENGTH
from random_weights import random_weights

OPERATORS = (ops.depth_action, ops.size_action)


def check(operator, scores, lengths, depth, slots, repeats, weights, uses_tanh=False, length_range=ANY_LENGTH):
    """The action has the largest exact output, up to float32 rounding."""
    for _ in every_kernel():
        actions = operator(scores, lengths, depth, slots, repeats, weights, uses_tanh, *length_range)
        assert actions.dtype == torch.int32
        for b, action in enumerate(actions.tolist()):
            shown = nearest(int(lengths[b]), length_range)
            outputs = network(observation(scores[b], shown, depth, slots, repeats), weights, uses_tanh)
            assert outputs[action] >= outputs.max() - 1e-4 * (1 + outputs.abs().max())


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    count=st.integers(0, 120),
    empty_slots=st.integers(0, 40),
    repeats=st.integers(0, 20),
    hidden=st.lists(st.integers(1, 70), max_size=3),
    actions=st.integers(1, 24),
    depth=st.integers(0, 12),
    roomy=st.booleans(),
    uses_tanh=st.booleans(),
    length_range=length_ranges,
    seed=st.integers(0, 2**31),
)
def test_action_is_the_networks_largest_output(
    batch, count, empty_slots, repeats, hidden, actions, depth, roomy, uses_tanh, length_range, seed
):
    generator = torch.Generator().manual_seed(seed)
    slots = count + empty_slots
    weights = random_weights([slots + 2 * repeats, *hidden, actions], generator)
    scores = -30 * torch.rand(batch, count, generator=generator)
    for value in (-math.inf, math.nan, -1e9):
        scores[torch.rand(batch, count, generator=generator) < 0.05] = value
    lengths = torch.randint(0, 4000, (batch,), generator=generator).int()
    for operator in OPERATORS:
        given_scores = strided(scores) if roomy else scores
        check(operator, given_scores, lengths, depth, slots, repeats, weights, uses_tanh, length_range)


@pytest.mark.parametrize(
    ("operator", "count", "slots", "repeats", "sizes"),
    [(ops.depth_action, 100, 100, 14, [128, 1024, 2]), (ops.size_action, 810, 1210, 29, [1268, 1024, 256, 24])],
)
def test_the_papers_networks(operator, count, slots, repeats, sizes):
    generator = torch.Generator().manual_seed(1)
    weights = random_weights(sizes, generator)
    for _ in range(5):
        scores = -10 * torch.rand(1, count, generator=generator)
        check(operator, scores, torch.tensor([700], dtype=torch.int32), 8, slots, repeats, weights)


def test_ties_go_to_the_smallest_action():
    weights = [torch.zeros(5, 4), torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0])]
    for _ in every_kernel():
        assert ops.depth_action(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int32), 0, 2, 1, weights).tolist() == [1]


def bad_call(**changes):
    arguments = {
        "scores": torch.zeros(1, 3),
        "lengths": torch.zeros(1, dtype=torch.int32),
        "depth": 2,
        "score_slots": 4,
        "repeats": 2,
        "weights": [torch.zeros(5, 8), torch.zeros(5), torch.zeros(2, 5), torch.zeros(2)],
    }
    for operator in OPERATORS:
        operator(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_slots": 2}, "scores must have at most score_slots = 2 columns"),
        ({"repeats": -1}, "repeats must be 0 to 1073741824, but is -1"),
        ({"repeats": 3}, r"weights\[0\] must have size 10 in dimension 1, but its shape is \[5, 8\]"),
        ({"weights": []}, "weights must be 1 to 8 pairs of weight and bias, but holds 0"),
        ({"weights": [torch.zeros(5, 8)]}, "weights must be 1 to 8 pairs of weight and bias, but holds 1"),
        ({"weights": [torch.zeros(5, 8), torch.zeros(4)]}, r"weights\[1\] must have size 5 in dimension 0"),
        ({"weights": [torch.zeros(8, 5).T, torch.zeros(5)]}, r"weights\[0\] must be contiguous"),
        ({"weights": [torch.zeros(5, 8).half(), torch.zeros(5)]}, r"weights\[0\] must be of type Float, but is Half"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "lengths must have size 1 in dimension 0"),
        ({"scores": torch.zeros(3)}, "scores must have 2 dimensions"),
        ({"shortest": -1}, "shortest must be 0 to 2147483647, but is -1"),
        ({"shortest": 9, "longest": 8}, "shortest must be 0 to 8, but is 9"),
        ({"longest": 2**31}, "longest must be 0 to 2147483647, but is 2147483648"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
