"""A draft tree built the way the official EAGLE-3 code builds it: torch operators per level, then Python lists.

Our own equivalent, in its style on purpose: a full log-softmax per level, two top-k's, growing lists of tensors, a
boolean mask filled row by row, and a table of root-to-leaf paths made by walking Python lists. It is an oracle for the
tests and what `bench/operators.py` times the operators against. Batch size 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class OfficialNodes:
    """What goes to verification: N nodes, root first.

    Attributes:
        tokens: int64 (N,); parents: node indices (N,), -1 for the root.
        mask: bool (N, N), ancestors-or-self; depths: int64 (N,).
        paths: int64 (leaves, longest), node indices from the root to each leaf, -1 behind its end.
    """

    tokens: Tensor
    parents: list[int]
    mask: Tensor
    depths: Tensor
    paths: Tensor


class OfficialTree:
    """Grows level by level from draft logits; `select` picks the nodes to verify."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.scores: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.parents: list[Tensor] = []  # of each row of children: the candidate's number, 0 = root
        self.beam_scores = torch.zeros(1)
        self.beam_tokens = torch.zeros(1, dtype=torch.int64)
        self.visible = torch.eye(width)
        self.candidates = 0

    def expand(self, logits: Tensor, d2t: Tensor) -> None:
        """Adds a level from float logits (rows, Vd)."""
        width, rows = self.width, logits.shape[0]
        best = torch.log_softmax(logits, dim=-1).topk(width, dim=-1)
        children = best.values + self.beam_scores[:, None]
        self.scores.append(children)
        self.tokens.append(best.indices + d2t[best.indices])
        if not self.candidates:
            self.parents.append(torch.zeros(1, dtype=torch.int64))
        chosen = children.view(-1).topk(width)
        self.beam_scores, beam = chosen.values, chosen.indices
        self.beam_tokens = self.tokens[-1].view(-1)[beam]
        if self.candidates:
            self.visible = torch.cat((self.visible[beam // width], torch.eye(width)), dim=1)
        self.parents.append(beam + self.candidates + 1)
        self.candidates += rows * width

    def select(self, size: int, root: int) -> OfficialNodes:
        """The `size` best candidates with the root."""
        scores = torch.cat([level.view(-1) for level in self.scores])
        chosen = scores.topk(size).indices.sort().values
        tokens = torch.cat((torch.tensor([root]), torch.cat([level.view(-1) for level in self.tokens])[chosen]))
        parent_numbers = torch.cat(self.parents)[chosen // self.width]
        # A parent's number is its index + 1; nodes are numbered from 1 in the order of `chosen`.
        parents = torch.where(parent_numbers == 0, 0, torch.searchsorted(chosen, parent_numbers - 1) + 1).tolist()
        mask = torch.eye(size + 1, dtype=torch.bool)
        for node in range(1, size + 1):
            mask[node].logical_or_(mask[parents[node - 1]])
        depths = mask.sum(dim=1) - 1
        return OfficialNodes(tokens, [-1, *parents], mask, depths, path_table([-1, *parents], depths.tolist()))


def path_table(parents: list[int], depths: list[int]) -> Tensor:
    """All root-to-leaf paths, one a row, filled with -1."""
    inner = set(parents)
    rows = []
    for leaf in range(len(parents)):
        if leaf in inner:
            continue
        row, node = [-1] * (max(depths) + 1), leaf
        for depth in reversed(range(depths[leaf] + 1)):
            row[depth] = node
            node = parents[node]
        rows.append(row)
    return torch.tensor(rows)


def accept_official(logits: Tensor, nodes: OfficialNodes) -> tuple[int, int, int]:
    """The longest path that agrees with the argmax of logits (N, vocabulary).

    Returns:
        Its row in `paths`, the drafted tokens accepted, the bonus token.
    """
    drafted = torch.cat((nodes.tokens, torch.tensor([-1])))[nodes.paths]
    chosen = logits.argmax(dim=-1)[nodes.paths]
    agreed = (drafted[:, 1:] == chosen[:, :-1]).int().cumprod(dim=1).sum(dim=1)
    length = int(agreed.max())
    row = int(agreed.argmax())
    return row, length, int(chosen[row, length])
