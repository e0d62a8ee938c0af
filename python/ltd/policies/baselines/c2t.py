"""C2T: a fixed depth, and a size that counts the candidates which a classifier expects to be accepted.

Huo et al. 2025, "C2T: A Classifier-Based Tree Construction Method in Speculative Decoding" (arXiv 2502.13652), as
Learning to Draft runs it on the trees of EAGLE-3: a network of one hidden layer, 64 wide, reads of every candidate

    the joint probability of its path under the draft, and its level,

and the size is the number of those with P(accepted) > threshold, at least 1. As the joint probability never grows
along a path and the tree verifies the candidates of the greatest first, no child is verified without its parent. The
threshold is 0.5, as the classes were balanced in training.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltd.policies.base import FixedSize
from ltd.policies.baselines.classifier import Classifier, c2t_features, on_device
from ltd.policies.baselines.files import SHIPPED, find_baseline
from ltd.policies.baselines.trained_rule import TrainedRule
from ltd.policies.tree_signals import levels_of
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True, eq=False)
class C2T(FixedSize, TrainedRule):
    """The policy; keeps nothing between cycles. A batch gets the mean of its sequences' sizes, rounded.

    Args:
        network: reads `c2t_features`.
        threshold: candidates above it count.
        max_depth: of every tree.
    """

    network: Classifier
    threshold: float = 0.5
    max_depth: int = 8
    size: int = 240

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to the depth."""
        return depth < self.max_depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """How many will probably be accepted."""
        on_device(self.network, tree.scores)
        joint = tree.scores[:, : tree.candidates].exp()
        levels = levels_of(tree.counts[: tree.levels + 1], joint.device).expand_as(joint)
        expected = self.network.chance(c2t_features(joint, levels)) > self.threshold
        return min(max(round(expected.sum().item() / len(joint)), 1), self.size)

    def __str__(self) -> str:
        return f"C2T, threshold {self.threshold:g}, depth {self.max_depth}, size up to {self.size}"


def c2t(model: str = SHIPPED, threshold: float = 0.5, max_depth: int = 8, size: int = 240) -> C2T:
    """The policy with the classifier in a folder of `ltd train-baseline c2t`, or the one that comes with ltd."""
    baseline = find_baseline("c2t", model)
    assert isinstance(baseline.network, Classifier)
    return C2T(baseline.network, threshold, max_depth, size, baseline.head_sha256)
