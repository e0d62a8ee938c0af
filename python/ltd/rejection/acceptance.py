"""Recursive rejection without replacement: which of a node's drawn children, if any, the text goes on with.

With p the target's distribution at a node and q the draft's, of which its children are a draw without replacement, the
children are looked at in the order of the draw:

- child c is accepted with probability min(1, p(c) / q(c));
- if it is not, p becomes max(p - q, 0) and q loses c, both normalised again;
- if none is, the token is drawn from what is left of p.

The token then has the law p. Of one step: c has the law q, so v is accepted with probability q(v) · min(1, p(v) / q(v))
= min(p(v), q(v)). Else, with probability 1 - Σ min(p, q) = Σ max(p - q, 0), what follows must have the law max(p - q,
0), normalised, and by induction it has: the next child is a draw from the q that is left, whatever c was. (Leviathan et
al. 2023 for one child; Jeon et al. 2024, "Recursive Speculative Decoding", for draws without replacement.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.decoding.acceptance import Sampling, VerifiedTrees
from ltd.rejection.distributions import (
    as_array,
    draft_distribution,
    draw,
    floats,
    target_distribution,
    uniforms,
)
from ltd.rejection.tree import DrawnNodes
from ltd.tree import TreeNodes


@dataclass(frozen=True, slots=True, eq=False)
class RejectionAcceptor:
    """`Acceptor` by recursive rejection, for drawn trees and for roots alone.

    What is random is decided by seed, row and position, see `uniforms`. A place's token is decided once, so the numbers
    of a place are used once, and so is its noise: what was drawn with it below other nodes, or below a node that was
    rejected, is in no decision.

    Args:
        sampling: the target's, at a temperature above 0.
        seed: of the numbers.
        words: int64 (Vd,), the target's ids of the draft's; None if they are the same.
    """

    sampling: Sampling
    seed: int
    words: Integers | None

    def __call__(self, trees: VerifiedTrees) -> None:
        """See `Acceptor`."""
        report = trees.report
        for sequence, row in enumerate(report.rows):
            path, tokens = self._walk(as_array(trees.logits[sequence]), trees.nodes, sequence, row)
            count = len(path)
            report.path[sequence, :count] = torch.tensor(path, dtype=torch.int32)
            report.tokens[sequence, :count] = torch.tensor(tokens)
            report.gained[sequence] = count

    def _walk(self, logits: NDArray[Any], nodes: TreeNodes, sequence: int, row: int) -> tuple[list[int], list[int]]:
        """The path through one sequence's tree, and the token behind each node of it; -1 where p is none.

        Args:
            logits: (N, vocabulary), the target's.
        """
        path: list[int] = []
        tokens: list[int] = []
        names: list[int] = nodes.tokens[sequence].tolist()
        positions: list[int] = nodes.positions[sequence].tolist()
        node: int | None = 0
        while node is not None:
            path.append(node)
            p = target_distribution(floats(logits[node]), self.sampling)
            if p is None:
                tokens.append(-1)
                break
            q, children = self._proposed(nodes, sequence, node, len(p))
            numbers = uniforms(self.seed, row, positions[node], len(children) + 1)
            accepted, token = reject(p, q, [names[child] for child in children], numbers)
            tokens.append(token)
            node = None if accepted is None else children[accepted]
        return path, tokens

    def _proposed(self, nodes: TreeNodes, sequence: int, node: int, vocabulary: int) -> tuple[Floats, list[int]]:
        """What the children of a node were drawn from, and these in order; there are none where that is unknown."""
        if isinstance(nodes, DrawnNodes) and (children := nodes.shape.children[node]):
            proposal = floats(nodes.proposal(sequence, node))
            q = draft_distribution(proposal, self.words, vocabulary, self.sampling.temperature)
            if q is not None:
                return q, children
        return np.zeros(0, dtype=np.float32), []


def reject(p: Floats, q: Floats, drawn: Sequence[int], numbers: Doubles) -> tuple[int | None, int]:
    """Which of a node's children is accepted, None for none of them, and the token that follows the node.

    Args:
        p: float32 (vocabulary,), the target's distribution. q: the draft's, overwritten; not read without children.
        drawn: the children's tokens in the order in which they were drawn from q without replacement. What comes where
            nothing was left of q is no draw, and is not looked at.
        numbers: float64 (len(drawn) + 1,), independent, uniform in 0 <= u < 1.
    """
    for place, token in enumerate(drawn):
        if not q[token] > 0.0:
            break
        if numbers[place] * q[token] < p[token]:
            return place, token
        left = p - q
        np.maximum(left, 0.0, out=left)
        if not (mass := left.sum()) > 0.0:
            break  # p is q: what rejected the child is rounding
        p = left / mass
        q[token] = 0.0
        if not (mass := q.sum()) > 0.0:
            break
        q /= mass
    return None, draw(p, numbers[-1])
