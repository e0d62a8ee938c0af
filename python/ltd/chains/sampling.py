"""Speculative sampling with a chain: how the draft draws its tokens, and which of them the target keeps.

With p the target's distribution and q the draft's, both after temperature, top-k and top-p, a token x that was drawn
from q is kept with probability min(1, p(x) / q(x)); where it is not, the text goes on with a token drawn from
max(p - q, 0), normalised, and after a wholly kept chain with one drawn from p. The text then has the target's own
distribution (Leviathan et al. 2023, appendix A.1; Chen et al. 2023, theorem 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ltd import ops
from ltd.decoding.acceptance import Sampling
from ltd.decoding.report import NOT_FINITE
from ltd.errors import InputError
from ltd.tree import TreeNodes


@dataclass(slots=True)
class Chain:
    """The tokens drafted in one cycle.

    Attributes:
        cycle: its number in the generation.
        position: of the token before the first.
        choices: numbers among the draft's words; tokens: the same as the target's ids.
        logits: (Vd,) each, that they were drawn from.
    """

    cycle: int
    position: int
    choices: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.choices)

    def add(self, choice: int, token: int, logits: Tensor) -> None:
        """Appends a token."""
        self.choices.append(choice)
        self.tokens.append(token)
        self.logits.append(logits)


def chain_nodes(tokens: list[int], position: int) -> TreeNodes:
    """A chain as a tree: the root at `position`, and each token the only child of the one before."""
    count = len(tokens)
    indices = torch.arange(count)
    parents = (indices - 1).to(torch.int32)[None]
    children = torch.where(indices < count - 1, indices + 1, -1).to(torch.int32)[None]
    none = torch.full((1, count), -1, dtype=torch.int32)
    masks = ((2 << indices) - 1)[None, :, None]
    return TreeNodes(torch.tensor([tokens]), parents, (position + indices)[None], masks, children, none, parents)


class ChainSampler(Protocol):
    """Draws and keeps the tokens of one generation."""

    def draft(self, chain: Chain, logits: Tensor) -> tuple[int, float]:
        """The next token of a chain, as its number among the draft's words, and its chance.

        The number is -1 where the draft's logits (Vd,) are not finite.
        """
        ...

    def accept(self, chain: Chain, logits: Tensor) -> tuple[int, int]:
        """How many tokens of a chain are kept, and the token behind them.

        Args:
            logits: (K + 1, vocabulary), the target's.

        Raises:
            InputError: the target's logits were not finite.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainSampling:
    """`ChainSampler` by p/q acceptance, greedily at temperature 0.

    What is random depends on the seed, the number of the cycle, the position and the use of the number alone.

    Attributes:
        sampling: of draft and target.
        words: int64 (Vd,), the target's ids of the draft's; None if they are the same.
        seed: the sampling's, or one that was drawn for it.
    """

    sampling: Sampling
    words: Tensor | None
    seed: int

    def draft(self, chain: Chain, logits: Tensor) -> tuple[int, float]:
        """See `ChainSampler`."""
        how = self.sampling
        choice, chance = ops.draft_token(
            logits[None], how.temperature, how.top_k, how.top_p, self.seed, chain.cycle, chain.position + len(chain)
        )
        return int(choice), float(chance)

    def accept(self, chain: Chain, logits: Tensor) -> tuple[int, int]:
        """See `ChainSampler`."""
        how = self.sampling
        draft_logits = torch.stack(chain.logits) if chain.logits and how.temperature > 0.0 else None
        drafted = torch.tensor(chain.choices, dtype=torch.int64)
        settings = (how.temperature, how.top_k, how.top_p, self.seed, chain.cycle, chain.position)
        kept, token = ops.accept_chain(logits, draft_logits, self.words, drafted, *settings).tolist()
        if token < 0:
            raise InputError(NOT_FINITE)
        return kept, token
