"""Learned policies in the cycle, and the parts that do not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
from ltd.loading import load
from ltd.policies.learned.asking import upper_median
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, depth_layout, size_layout
from ltd.policies.learned.policy import Learned, LearnedCall
from ltd.policies.learned.setting import Setting
from ltd.tree import DraftTree

Folder = Callable[[str], Path]
WIDTH = 3


def linear(layout: Layout, outputs: int, **rows: Any) -> Network:
    """A network of one layer: output i's bias as b<i>, its weight on all slots of a field as w<i>=(field, value)."""
    weight, bias = torch.zeros(outputs, layout.width), torch.zeros(outputs)
    for name, value in rows.items():
        index = int(name[1:])
        if name[0] == "b":
            bias[index] = value
        else:
            weight[index, getattr(layout, value[0])] = value[1]
    return Network(layout, (weight, bias))


def tree(depth: int, lengths: list[int]) -> DraftTree:
    """A tree of scores -1, -2, … after so many expansions."""
    grown = DraftTree(len(lengths), WIDTH, 4, 30, torch.device("cpu"))
    grown.begin(torch.zeros(len(lengths), dtype=torch.int64), torch.tensor(lengths, dtype=torch.int32))
    grown.levels = depth + 1
    grown.scores[:] = -torch.arange(1.0, grown.scores.shape[1] + 1)
    return grown


def learned(**changes: Any) -> Learned:
    """Goes on while the context is longer than 100, of sizes 2, 4, 8 the one that the context length says."""
    depth, size = depth_layout(WIDTH), size_layout(WIDTH, 4)
    parts: dict[str, Any] = {
        "made_for": Setting(WIDTH),
        "depth_limit": 4,
        "sizes": (2, 4, 8),
        "depth_network": linear(depth, 2, b0=1.4, w1=("length", 1.0)),  # 14 repeats of length / 1000
        "size_network": linear(size, 3, b1=0.0, b2=-29.0, w1=("length", 0.0), w2=("length", 10.0)),
    }
    return Learned(**{**parts, **changes})


def asked(batch: int = 1, **changes: Any) -> LearnedCall:
    """The same, in a call."""
    return learned(**changes).start(batch)


def test_the_networks_decide_from_the_tree() -> None:
    policy = asked()
    assert not policy.continue_drafting(tree(0, [99]), 0)
    assert policy.continue_drafting(tree(2, [101]), 2)
    assert policy.choose_size(tree(2, [99]), 2) == 2  # ties go to the smallest action
    assert policy.choose_size(tree(2, [101]), 2) == 8
    assert (policy.max_depth, policy.max_size) == (4, 8) and policy.speculate(torch.tensor([5]), [1])


def test_the_networks_see_the_right_scores() -> None:
    """The depth network the newest level, the size network all candidates: their sums tell."""
    newest = -sum(range(4, 13)) - 0.5
    policy = asked(
        depth_network=linear(depth_layout(WIDTH), 2, b0=newest, w1=("scores", 1.0)),
        size_network=linear(size_layout(WIDTH, 4), 3, b0=-sum(range(1, 13)) - 0.5, w1=("scores", 1.0), b2=-1e6),
    )
    assert policy.continue_drafting(tree(1, [5]), 1) and not policy.continue_drafting(tree(2, [5]), 2)
    assert policy.choose_size(tree(1, [5]), 1) == 4 and policy.choose_size(tree(2, [5]), 2) == 2


def test_the_networks_see_the_depth() -> None:
    policy = asked(depth_network=linear(depth_layout(WIDTH), 2, b1=14 * 0.25, w0=("depth", 1.0)))
    assert [policy.continue_drafting(tree(depth, [5]), depth) for depth in range(4)] == [True, True, True, False]


def test_one_answer_serves_a_batch() -> None:
    policy = asked(3)
    assert policy.continue_drafting(tree(1, [500, 500, 5]), 1) and not policy.continue_drafting(tree(1, [500, 5, 5]), 1)
    assert policy.continue_drafting(tree(1, [500, 5]), 1)
    assert policy.choose_size(tree(1, [500, 5]), 1) == 8 and policy.choose_size(tree(1, [5, 500, 5]), 1) == 2
    assert upper_median([3, 0, 1, 2]) == 2


def test_constants_take_the_place_of_networks() -> None:
    fixed = asked(depth_network=None, size_network=None, sizes=(60,))
    assert fixed.continue_drafting(tree(0, [5]), 0) and fixed.choose_size(tree(2, [5]), 2) == 60 == fixed.max_size


def test_below_the_least_depth_nobody_is_asked() -> None:
    policy = asked(min_depth=2)
    assert [policy.continue_drafting(tree(depth, [5]), depth) for depth in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (2, 4)}, "holds 2 sizes, but its network has 3"),
        ({"sizes": (2, 4), "size_network": None}, "without a size network there is 1"),
        ({"sizes": ()}, "must hold sizes"),
        ({"sizes": (2, 2, 4)}, "must ascend"),
        ({"sizes": (2, 4, 513)}, "0 … 512"),
        ({"sizes": (-1, 4, 5)}, "0 … 512"),
        ({"depth_limit": 13}, "depth 13"),
        ({"min_depth": 5}, "min_depth 5"),
        ({"min_depth": 1.5}, "min_depth is 1.5, but must be a whole number"),
        ({"depth_limit": 2.5}, "depth_limit is 2.5, but must be a whole number"),
        ({"sizes": 4}, "sizes is 4, but must be a list of whole numbers"),
        ({"sizes": (2, 4, 6.5)}, "in sizes is 6.5, but must be a whole number"),
        ({"made_for": "here"}, "made_for is .here., but must be a Setting"),
        ({"made_for": Setting(17)}, "beam width 17"),
        ({"made_for": Setting(4)}, "up to 16 at beam width 4"),
        (
            {"size_network": linear(size_layout(WIDTH, 3), 3)},
            "size network has 30 slots for scores, but there are up to 39",
        ),
        ({"depth_network": linear(depth_layout(WIDTH), 3)}, "has 3 outputs"),
    ],
)
def test_parts_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        learned(**changes)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((), "not 0 tensors"),
        ((torch.zeros(2, 6),), "not 1 tensors"),
        ((torch.zeros(2, 5), torch.zeros(2)), r"reads 6 numbers, but its weight has shape \(2, 5\)"),
        ((torch.zeros(2, 6), torch.zeros(3)), r"its bias \(3,\)"),
        ((torch.zeros(2, 6).double(), torch.zeros(2).double()), "float32"),
        ((torch.full((2, 6), float("nan")), torch.zeros(2)), "finite"),
        ((torch.zeros(4, 6), torch.zeros(4), torch.zeros(2, 5), torch.zeros(2)), "layer 1 reads 4"),
    ],
)
def test_weights_that_are_no_network(weights: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        Network(Layout(4, 1), weights)


def test_any_network_leaves_the_text_as_it_is(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = load(tiny_target("llama"), tiny_head("llama"), dtype="float32", device="cpu")
    prompts = [[5, 9, 33, 60], [7, 8, 9]]
    plain = [answer.token_ids for answer in decoder.generate(prompts, max_new_tokens=30, policy="none")]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        layouts = (depth_layout(10), 2), (size_layout(10, 5), 3)
        depth, size = (
            Network(layout, (torch.randn(outputs, layout.width, generator=generator), torch.zeros(outputs)))
            for layout, outputs in layouts
        )
        policy = Learned(Setting(10), 5, (0, 7, 30), depth, size)
        answers = decoder.generate(prompts, max_new_tokens=30, policy=policy)
        assert [answer.token_ids for answer in answers] == plain
        assert set(decoder.last_statistics.sizes) <= {0, 7, 30}


def test_another_activation_is_refused() -> None:
    with pytest.raises(ltd.InputError, match="'gelu' is not known; it must be one of relu, tanh"):
        Network(Layout(1, 0), (torch.zeros(2, 1), torch.zeros(2)), "gelu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("activation", "threshold", "goes"), [("relu", -0.1, True), ("tanh", -0.72, True), ("tanh", -0.71, False)]
)
def test_the_activation_is_between_the_layers(activation: Any, threshold: float, goes: bool) -> None:
    """The hidden number is -0.9; ReLU makes 0 of it, tanh -0.716."""
    weights = torch.zeros(1, 9 + 28), torch.tensor([-0.9]), torch.tensor([[0.0], [1.0]]), torch.tensor([threshold, 0.0])
    policy = asked(depth_network=Network(depth_layout(WIDTH), weights, activation))
    assert policy.continue_drafting(tree(1, [5]), 1) == goes
