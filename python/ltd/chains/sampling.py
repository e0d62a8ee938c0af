"""Speculative sampling with a chain: how the draft draws its tokens, and which of them the target keeps.

With p the target's distribution and q the draft's, both after temperature, top-k and top-p, a token x that was drawn
from q is kept with probability min(1, p(x) / q(x)); where it is not, the text goes on with a token drawn from
max(p - q, 0), normalised, and after a wholly kept chain with one drawn from p. The text then has the target's own
distribution (Leviathan et al. 2023, appendix A.1; Chen et al. 2023, theorem 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ltd import ops
from ltd.decoding.acceptance import Sampling
from ltd.decoding.report import NOT_FINITE
from ltd.errors import InputError


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


@dataclass(frozen=True, slots=True)
class ChainSampling:
    """Draws and keeps the tokens of one generation, greedily at temperature 0.

    What is random depends on the seed, the number of the cycle, the position and the use of the number alone.

    Attributes:
        sampling: of draft and target.
        seed: the sampling's, or one that was drawn for it.
    """

    sampling: Sampling
    seed: int

    def draft(self, chain: Chain, logits: Tensor) -> tuple[int, float]:
        """The next token of a chain, as its number among the draft's words, and its chance.

        The number is -1 where the draft's logits (Vd,) are not finite.
        """
        how = self.sampling
        choice, chance = ops.draft_token(
            logits[None], how.temperature, how.top_k, how.top_p, self.seed, chain.cycle, chain.position + len(chain)
        )
        return int(choice), float(chance)

    def accept(self, chain: Chain, logits: Tensor, words: Tensor | None) -> tuple[int, int]:
        """How many tokens of a chain are kept, and the token behind them.

        Args:
            logits: (K + 1, vocabulary), the target's.
            words: int64 (Vd,), the target's ids of the draft's; None if they are the same.

        Raises:
            InputError: the target's logits were not finite.
        """
        how = self.sampling
        draft_logits = torch.stack(chain.logits) if chain.logits and how.temperature > 0.0 else None
        drafted = torch.tensor(chain.choices, dtype=torch.int64)
        settings = (how.temperature, how.top_k, how.top_p, self.seed, chain.cycle, chain.position)
        kept, token = ops.accept_chain(logits, draft_logits, words, drafted, *settings).tolist()
        if token < 0:
            raise InputError(NOT_FINITE)
        return kept, token
