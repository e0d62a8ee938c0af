"""The acceptance prediction head of SpecDec++: will a drafted token be accepted, seen from the draft's state?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = 3
REJECTED, ACCEPTED = 0, 1  # the two logits


class AcceptanceHead(nn.Module):
    """Residual SiLU blocks and a linear layer to two logits (SpecDec++, arXiv 2405.19715, section 3.2).

    Every block is x + silu(W x + b) with weights of its own (the official code repeats one block's). An input
    projection stands before them only where the width is not that of the states.

    Args:
        inputs: size of the draft's states.
        width: of the blocks; None is the size of the states.
        blocks: how many.
    """

    def __init__(self, inputs: int, width: int | None = None, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width or inputs
        self.project = nn.Linear(inputs, self.width) if self.width != inputs else None
        self.blocks = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(blocks))
        self.out = nn.Linear(self.width, 2)

    def forward(self, states: Tensor) -> Tensor:
        """States (…, inputs) → logits (…, 2): of rejection, of acceptance."""
        hidden = states if self.project is None else self.project(states)
        for block in self.blocks:
            hidden = hidden + functional.silu(block(hidden))
        logits: Tensor = self.out(hidden)
        return logits

    @torch.no_grad()
    def chance(self, states: Tensor) -> Tensor:
        """States (…, inputs) → float32 (…): the probability of acceptance."""
        chances: Tensor = self(states.to(self.out.weight.dtype)).float().softmax(-1)[..., ACCEPTED]
        return chances
