"""SpecDec++ on trees: draft deeper while the best path drafted so far will probably be accepted as a whole.

Huang et al. 2025, "SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths" (arXiv 2405.19715), as
Learning to Draft runs it on the trees of EAGLE-3. A head on the draft's state at a candidate predicts that this one is
accepted if all before it on its path are. Drafting stops when some rejection has become too likely:

    1 - Π chance(n) > threshold,    n along the path to the best-scored candidate that the newest level grew from.

The newest candidates themselves have no states yet. The head reads states whose mean square is 1, because an EAGLE-3
head's own states, from before its final norm, differ a lot in size. The drafted tree's size is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ltd.errors import InputError
from ltd.policies.base import FixedSize, StopsBySignal
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.policies.baselines.classifier import on_device
from ltd.policies.baselines.files import SHIPPED, find_baseline
from ltd.policies.baselines.trained_rule import TrainedRule
from ltd.policies.learned.observation import normalised
from ltd.tree import DraftTree


@dataclass(frozen=True, slots=True, eq=False)
class TreeSpecDecPP(TrainedRule):
    """The policy. A batch goes by the mean of its sequences' chances of a rejection.

    Args:
        network: reads the draft's states.
        threshold: drafting stops above it; larger drafts deeper. 0.3 is the reference's.
        size: of every tree.
    """

    network: AcceptanceHead
    threshold: float = 0.3
    max_depth: int = 12
    size: int = 60

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self, batch: int) -> TreeSpecDecPPCall:
        """Begins a call."""
        return TreeSpecDecPPCall(self)

    def __str__(self) -> str:
        return f"SpecDec++, threshold {self.threshold:g}, depth up to {self.max_depth}, size {self.size}"


@dataclass(slots=True, eq=False)
class TreeSpecDecPPCall(StopsBySignal, FixedSize):
    """The policy in a call. Nothing is kept from one cycle to the next.

    Args:
        policy: what started it.

    Attributes:
        chances: float32 (B, 1 + C), of the root (1) and of every candidate whose state is known in this cycle: that it
            and all before it on its path are accepted.
    """

    policy: TreeSpecDecPP
    size: int = field(init=False)
    chances: torch.Tensor = field(default_factory=lambda: torch.ones(0, 1), init=False)

    def __post_init__(self) -> None:
        self.size = self.policy.size

    @property
    def max_depth(self) -> int:
        """The policy's."""
        return self.policy.max_depth

    def signal(self, tree: DraftTree) -> torch.Tensor:
        """The chance of a rejection on the best path; 0 below the root, where there is none yet.

        Raises:
            InputError: the draft has not the states that the head reads.
        """
        parents = tree.parents_of_newest
        if parents is None:
            return torch.zeros(len(tree.scores), device=tree.scores.device)
        nodes, states, head = parents.long(), tree.states, self.policy.network
        if states is None or states.shape[-1] != head.inputs:
            raise InputError(
                f"this specdecpp was trained for draft states of size {head.inputs}, but this draft has "
                f"{'none' if states is None else states.shape[-1]}; train one for it with ltd train-baseline"
            )
        on_device(head, states)
        if self.chances.shape != (len(nodes), 1 + tree.scores.shape[1]) or self.chances.device != nodes.device:
            self.chances = torch.ones(len(nodes), 1 + tree.scores.shape[1], device=nodes.device)
        before = self.chances.gather(1, tree.parents.gather(1, nodes).long() + 1)
        chances = head.chance(normalised(states)) * before
        self.chances.scatter_(1, nodes + 1, chances)
        best = tree.scores.gather(1, nodes).argmax(dim=1, keepdim=True)
        return (1 - chances.gather(1, best))[:, 0]

    def goes_on(self, signal: torch.Tensor) -> torch.Tensor:
        """Whether it is low enough."""
        return signal <= self.policy.threshold


def tree_specdecpp(model: str = SHIPPED, threshold: float = 0.3, max_depth: int = 12, size: int = 60) -> TreeSpecDecPP:
    """The policy with the head in a folder of `ltd train-baseline specdecpp`, or the one that comes with ltd."""
    baseline = find_baseline("specdecpp", model)
    assert isinstance(baseline.network, AcceptanceHead)
    return TreeSpecDecPP(baseline.network, threshold, max_depth, size, baseline.head_sha256)
