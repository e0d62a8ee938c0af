"""What the operators on a GPU are timed beside, as far as it can be seen without one."""

from __future__ import annotations

import torch
from tape import Recorder

import gpu_operators
from ltd import ops
from ltd.tree import DraftTree
from random_weights import random_weights


def test_random_weights_come_from_the_generators_device() -> None:
    """Whatever the default device is, as where the operators are compared on a GPU."""
    with torch.device("meta"):
        weights = random_weights([3, 5, 2], torch.Generator("cpu"))
    assert [weight.device.type for weight in weights] == ["cpu"] * 4


def test_the_composed_walk_can_be_captured_and_is_ours() -> None:
    torch.manual_seed(0)
    tree = DraftTree(1, 3, gpu_operators.DEPTH, 20, torch.device("cpu"))
    tree.begin(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32))
    for level in range(gpu_operators.DEPTH + 1):
        tree.expand(3 * torch.randn(1, 3 if level else 1, 8), None)
    nodes = tree.select(20)
    for seed in range(20):
        logits = torch.randn(1, 21, 8, generator=torch.Generator().manual_seed(seed))
        path, gained = torch.zeros(1, gpu_operators.DEPTH + 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        tokens = torch.zeros(1, gpu_operators.DEPTH + 2, dtype=torch.int64)
        ops.accept_greedy(logits, nodes.tokens, nodes.first_child, nodes.next_sibling, path, tokens, gained)
        best = logits[0].argmax(dim=-1)
        with Recorder():
            walked = gpu_operators.walk_composed(nodes, best)
        assert walked[walked >= 0].tolist() == path[0, : int(gained)].tolist()
