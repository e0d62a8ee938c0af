"""Disco: draft deeper while a classifier expects the newest level's best candidate to be accepted.

Mamou et al. 2024, "Dynamic Speculation Lookahead Accelerates Speculative Decoding of Large Language Models" (arXiv
2405.04304), as Learning to Draft runs it on the trees of EAGLE-3: a network of one hidden layer, 128 wide, reads of
the best-scored candidate of the newest level

    its probability under the draft given its parent, the entropy of that distribution, and its level,

and drafting stops when P(accepted) < threshold. The size is fixed. The threshold is 0.5, as the classes were balanced
in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd.policies.base import FixedSize, StopsBySignal
from ltd.policies.baselines.classifier import Classifier, disco_features, on_device
from ltd.policies.baselines.files import SHIPPED, find_baseline
from ltd.policies.baselines.trained_rule import TrainedRule
from ltd.policies.tree_signals import best_of_newest
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True, eq=False)
class Disco(StopsBySignal, FixedSize, TrainedRule):
    """The policy; keeps nothing between cycles. A batch goes by the mean of its sequences' chances.

    Args:
        network: reads `disco_features`.
        threshold: drafting stops below it.
        size: of every tree.
    """

    network: Classifier
    threshold: float = 0.5
    max_depth: int = 12
    size: int = 60

    def signal(self, tree: DraftTree) -> torch.Tensor:
        """The chance that the best candidate of the newest level is accepted."""
        on_device(self.network, tree.scores)
        return self.network.chance(disco_features(*best_of_newest(tree)))

    def goes_on(self, signal: torch.Tensor) -> torch.Tensor:
        """Whether it will probably be."""
        return signal >= self.threshold

    def __str__(self) -> str:
        return f"Disco, threshold {self.threshold:g}, depth up to {self.max_depth}, size {self.size}"


def disco(model: str = SHIPPED, threshold: float = 0.5, max_depth: int = 12, size: int = 60) -> Disco:
    """The policy with the classifier in a folder of `ltd train-baseline disco`, or the one that comes with ltd."""
    baseline = find_baseline("disco", model)
    assert isinstance(baseline.network, Classifier)
    return Disco(baseline.network, threshold, max_depth, size, baseline.head_sha256)
