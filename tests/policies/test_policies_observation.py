"""The observation builder against the operators and an independent reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from length_ranges import length_ranges
from op_cases import every_kernel
from operator_reference import nearest, observation
from torch.nn import functional

import ltd
from ltd import ops
from ltd.policies.learned.observation import Layout, Summary, depth_layout, size_layout

OPERATORS = (ops.depth_action, ops.size_action)


@st.composite
def cases(draw: Any) -> tuple[Layout, torch.Tensor, torch.Tensor, int]:
    """Layout, scores, lengths, depth."""
    count = draw(st.integers(0, 120))
    layout = Layout(count + draw(st.integers(0, 40)), draw(st.integers(0, 20)), draw(length_ranges))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = draw(st.integers(1, 5))
    scores = -30 * torch.rand(batch, count, generator=generator)
    for value in (-math.inf, math.nan, -1e9):
        scores[torch.rand(batch, count, generator=generator) < 0.05] = value
    lengths = torch.randint(0, 4000, (batch,), generator=generator).int()
    return layout, scores, lengths, draw(st.integers(0, 12))


def act(operator: Any, layout: Layout, scores: torch.Tensor, lengths: torch.Tensor, depth: int, weights: Any) -> Any:
    """An operator's actions for a layout."""
    return operator(scores, lengths, depth, layout.slots, layout.repeats, weights, False, *layout.length_range)


@settings(max_examples=60)
@given(case=cases())
def test_the_builder_is_the_reference(case: tuple[Layout, torch.Tensor, torch.Tensor, int]) -> None:
    layout, scores, lengths, depth = case
    built = layout.build(scores, lengths, depth)
    for row, length in enumerate(lengths.tolist()):
        shown = nearest(length, layout.length_range)
        expected = observation(scores[row], shown, depth, layout.slots, layout.repeats)
        torch.testing.assert_close(built[row].double(), expected)


@settings(max_examples=60)
@given(case=cases(), data=st.data())
def test_the_operators_see_the_builders_numbers_to_the_last_bit(case: Any, data: st.DataObject) -> None:
    """A network that asks whether number i is above a threshold: a bit below it is, the number itself is not."""
    layout, scores, lengths, depth = case
    built = layout.build(scores, lengths, depth)
    if layout.width == 0:
        return
    place, row = data.draw(st.integers(0, layout.width - 1)), data.draw(st.integers(0, len(scores) - 1))
    value = built[row, place]
    weight = torch.zeros(2, layout.width)
    weight[1, place] = 1.0
    for threshold, action in ((value, 0), (torch.nextafter(value, torch.tensor(-math.inf)), 1)):
        weights = [weight, torch.stack([threshold, torch.tensor(0.0)])]
        for operator in OPERATORS:
            for _ in every_kernel():
                actions = act(operator, layout, scores, lengths, depth, weights)
                assert actions[row] == action


@settings(max_examples=60)
@given(
    case=cases(),
    hidden=st.lists(st.integers(1, 70), max_size=3),
    actions=st.integers(1, 24),
    seed=st.integers(0, 2**31),
)
def test_operator_is_builder_and_plain_network(case: Any, hidden: list[int], actions: int, seed: int) -> None:
    layout, scores, lengths, depth = case
    generator = torch.Generator().manual_seed(seed)
    sizes, weights = [layout.width, *hidden, actions], []
    for inputs, outputs in itertools.pairwise(sizes):
        weights.append(torch.randn(outputs, inputs, generator=generator) * max(inputs, 1) ** -0.5)
        weights.append(torch.randn(outputs, generator=generator))
    outputs = layout.build(scores, lengths, depth)
    for layer in range(0, len(weights), 2):
        outputs = functional.linear(outputs.relu() if layer else outputs, weights[layer], weights[layer + 1])
    best = outputs.max(1).values
    for operator in OPERATORS:
        chosen = act(operator, layout, scores, lengths, depth, weights).long()
        # Sums in another order: near ties may go either way.
        assert (outputs.gather(1, chosen[:, None])[:, 0] >= best - 1e-4 * (1 + outputs.abs().max(1).values)).all()


def test_fields_have_names() -> None:
    layout = Layout(3, 2)
    built = layout.build(torch.tensor([[-1.0, -200.0]]), 500, 4)[0]
    assert built[layout.scores].tolist() == [-1.0, -100.0, 0.0]
    assert built[layout.length].tolist() == [0.5, 0.5]
    assert torch.equal(built[layout.depth], torch.tensor([0.4, 0.4]))
    assert layout.width == len(built) == 7


def test_many_cycles_with_different_depths_and_counts_at_once() -> None:
    scores = -torch.rand(4, 6) - 0.1
    lengths, depths, counts = np.array([1, 20, 300, 4000]), np.array([0, 1, 2, 3]), np.array([6, 0, 3, 1])
    layout = Layout(8, 3)
    together = layout.build(scores, lengths, depths, counts)
    for row, count in enumerate(counts):
        alone = layout.build(scores[row : row + 1, :count], int(lengths[row]), int(depths[row]))
        assert torch.equal(together[row : row + 1], alone)


def test_the_papers_layouts() -> None:
    assert (depth_layout(10).slots, depth_layout(10).width) == (100, 128)
    assert (size_layout(10, 12).slots, size_layout(10, 12).width) == (1210, 1268)


@pytest.mark.parametrize("scores", [torch.zeros(1, 5), torch.zeros(4), torch.zeros(1, 1, 1)])
def test_scores_that_do_not_fit(scores: torch.Tensor) -> None:
    with pytest.raises(ltd.InputError, match="at most 4"):
        Layout(4, 1).build(scores, 1, 1)


def test_a_negative_layout() -> None:
    with pytest.raises(ltd.InputError, match="-1"):
        Layout(-1, 2)


@pytest.mark.parametrize("length_range", [(-1, 5), (6, 5), (0, 2**31)])
def test_a_range_of_lengths_that_is_none(length_range: tuple[int, int]) -> None:
    for make in (lambda: Layout(4, 1, length_range), lambda: Summary(4, 1, length_range=length_range)):
        with pytest.raises(ltd.InputError, match=f"lengths of {length_range[0]} … {length_range[1]} are no range"):
            make()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), length=st.integers(0, 2**31 - 1), depth=st.integers(0, 12))
def test_with_a_range_every_input_is_bounded(seed: int, length: int, depth: int) -> None:
    """Whatever the draft says: a longer context is not the only thing that could leave what a policy has learned."""
    generator = torch.Generator().manual_seed(seed)
    scores, states = -200 * torch.rand(2, 60, generator=generator), torch.randn(2, 9, generator=generator)
    scores[:, 3], states = -math.inf, states * 10 ** (4 * torch.rand(2, 1, generator=generator))
    layout, summary = Layout(70, 3, (80, 550)), Summary(8, 4, 9, (80, 550))
    built = layout.build(scores, length, depth)
    assert -100 <= built[:, layout.scores].min() <= built[:, layout.scores].max() <= 0
    assert 79.9 <= 1000 * built[:, layout.length].unique().item() <= 550.1
    assert 0 <= 10 * built[:, layout.depth].unique().item() <= 12.1
    ranked, likely, sums, shown, place, normal = summary.build(scores, 20, length, depth, states).split(
        [12, 12, 2, 1, 13, 9], dim=1
    )
    assert -5 <= ranked.min() <= ranked.max() <= 0 and 0 <= likely.min() <= likely.max() <= 1
    assert 0 <= sums.min() <= sums.max() <= 8 and 79.9 <= 1000 * shown.unique().item() <= 550.1
    assert set(place.unique().tolist()) == {0.0, 1.0} and normal.abs().max() <= 3.001
