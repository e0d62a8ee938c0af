"""Which part of a chain the target keeps: greedily, or by speculative sampling.

With p the target's distribution and q the draft's, both after temperature, top-k and top-p, a token x that was drawn
from q is accepted with probability min(1, p(x) / q(x)); where it is not, the text goes on with a token drawn from
max(p - q, 0), normalised, and after a wholly accepted chain with one drawn from p. The text then has the target's own
distribution (Leviathan et al. 2023, appendix A.1; Chen et al. 2023, theorem 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ltd import ops
from ltd.acceptance import Accepted, Sampling, collect
from ltd.tree import TreeNodes


@dataclass(frozen=True, slots=True)
class Drafted:
    """A drafted token.

    Attributes:
        token: in the target's vocabulary.
        chance: the draft's probability of it.
        distribution: float32 (V,) or (Vd,), q; None where it was not sampled.
    """

    token: int
    chance: float
    distribution: Tensor | None


class ChainAcceptor(Protocol):
    """Draws the draft's tokens and decides with the target's logits how many of them stay."""

    def draw(self, logits: Tensor) -> tuple[int, float, Tensor | None]:
        """From the draft's logits (Vd,): an index into them, its probability, and q where one is needed later."""
        ...

    def accept(self, logits: Tensor, nodes: TreeNodes, chain: list[Drafted], words: Tensor | None) -> Accepted:
        """Walks the chain.

        Args:
            logits: (1, K + 1, V), the target's, after the root and each of the K drafted tokens.
            nodes: these, as a tree.
            chain: the drafted tokens.
            words: int64 (Vd,), the token ids that q is about; None is all.
        """
        ...


class GreedyChain:
    """The most likely tokens on both sides."""

    def draw(self, logits: Tensor) -> tuple[int, float, Tensor | None]:
        """The most likely index, the first of equals."""
        best = logits.max(-1)
        chance = (best.values - logits.float().logsumexp(-1)).exp()
        return int(best.indices), float(chance), None

    def accept(self, logits: Tensor, nodes: TreeNodes, chain: list[Drafted], words: Tensor | None) -> Accepted:
        """As far as the drafted tokens are the target's most likely ones."""
        path = torch.zeros(1, len(chain) + 1, dtype=torch.int32)
        tokens, gained = torch.zeros_like(path, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
        ops.accept_greedy(logits, nodes.tokens, nodes.first_child, nodes.next_sibling, path, tokens, gained)
        return collect(path, tokens, gained)


class SampledChain:
    """Speculative sampling; all that is random comes from one generator, in the order in which it is needed.

    Args:
        sampling: temperature above 0, top-k, top-p and seed.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> tuple[int, float, Tensor]:
        """An index drawn from q."""
        distribution = warped(logits, self.sampling)
        index = self._sample(distribution)
        return index, float(distribution[index]), distribution

    def accept(self, logits: Tensor, nodes: TreeNodes, chain: list[Drafted], words: Tensor | None) -> Accepted:
        """Token by token, up to the first rejection. Only the rows that are reached are looked at."""
        tokens: list[int] = []
        for place, drafted in enumerate(chain):
            wanted = warped(logits[0, place], self.sampling)
            if self._uniform() * drafted.chance < float(wanted[drafted.token]):
                tokens.append(drafted.token)
                continue
            assert drafted.distribution is not None
            tokens.append(self._sample(residual(wanted, drafted.distribution, words)))
            break
        else:
            tokens.append(self._sample(warped(logits[0, len(chain)], self.sampling)))
        count = len(tokens)
        path = torch.arange(count, dtype=torch.int32)[None]
        return collect(path, torch.tensor([tokens]), torch.tensor([count], dtype=torch.int32))

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def _sample(self, weights: Tensor) -> int:
        """An index drawn with probabilities proportional to weights (n,), by the inverse of their sums; -1 for NaN."""
        sums = weights.cumsum(0, dtype=torch.float64)
        if not float(sums[-1]) > 0.0:
            return -1
        index = int(torch.searchsorted(sums, self._uniform() * sums[-1:], right=True)[0])
        return min(index, len(sums) - 1)


def warped(logits: Tensor, sampling: Sampling) -> Tensor:
    """float32 (n,): the distribution of logits (n,) after temperature, top-k and top-p, in `transformers`' order.

    Top-k keeps all logits that equal the k-th best. Top-p keeps a token while the better ones hold less than `top_p`,
    and always the best.
    """
    scaled = logits.float() / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[-1], float("-inf"))
    distribution = scaled.softmax(-1)
    if sampling.top_p < 1.0:
        ordered, order = distribution.sort(descending=True, stable=True)
        before = ordered.double().cumsum(0) - ordered
        dropped = order[before >= sampling.top_p]
        distribution = distribution.index_fill(0, dropped, 0.0)
        distribution /= distribution.sum()
    return distribution


def residual(wanted: Tensor, drafted: Tensor, words: Tensor | None) -> Tensor:
    """float32 (V,): max(p - q, 0), not normalised, of p (V,) and q (Vd,) over the words.

    Where rounding leaves nothing of it, although a token was rejected, it is p.
    """
    rest = wanted.clone()
    if words is None:
        rest -= drafted
    else:
        rest.index_add_(0, words, drafted, alpha=-1)
    rest.clamp_(min=0.0)
    return rest if float(rest.sum()) > 0.0 else wanted
