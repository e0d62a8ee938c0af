"""The small networks of Disco and C2T: will a candidate be accepted, from a few numbers that the draft gives of it?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltd.policies.learned.observation import DEPTH_UNIT

ENTROPY_UNIT = 4.0  # nats


class Classifier(nn.Module):
    """One hidden layer with ReLU, in float32.

    Args:
        inputs: numbers that are known of a candidate.
        hidden: width of the hidden layer.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Features float32 (…, inputs) → float32 (…): the logit of acceptance."""
        logits: Tensor = self.layers(features)
        return logits[..., 0]

    @torch.no_grad()
    def chance(self, features: Tensor) -> Tensor:
        """Features float32 (…, inputs) → float32 (…): the probability of acceptance."""
        logits: Tensor = self(features)
        return logits.sigmoid()


def disco_features(probability: Tensor, entropy: Tensor, level: Tensor) -> Tensor:
    """What Disco's network reads, float32 (…, 3).

    Args:
        probability: (…), of the candidate under the draft, given its parent.
        entropy: (…), in nats, of the distribution that it came from.
        level: (…), 0 for the children of the root.
    """
    return torch.stack([probability, entropy / ENTROPY_UNIT, level / DEPTH_UNIT], dim=-1)


def c2t_features(joint: Tensor, level: Tensor) -> Tensor:
    """What C2T's network reads, float32 (…, 2).

    Args:
        joint: (…), probability of the whole path down to the candidate under the draft.
        level: (…), 0 for the children of the root.
    """
    return torch.stack([joint, level / DEPTH_UNIT], dim=-1)


def on_device(network: nn.Module, like: Tensor) -> None:
    """Moves a network to where a tensor is, unless it is there."""
    if next(network.parameters()).device != like.device:
        network.to(like.device)
