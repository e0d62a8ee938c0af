"""A tree of a fixed shape whose nodes' children are drawn from the draft, without replacement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.lookup import TextCandidates
from ltd.noise import SharedNoise
from ltd.rejection.distributions import as_array
from ltd.rejection.shape import Shape
from ltd.tree import DraftTree, TreeNodes, own_bits


@dataclass(frozen=True, slots=True)
class DrawnNodes(TreeNodes):
    """The nodes of a drawn tree.

    Attributes:
        shape: of the tree.
        proposals: by level, (B, rows, Vd), the draft's logits that its nodes were drawn from, see `as_array`; row r is
            that of the r-th of the nodes that they are children of, see `Shape.beams`.
    """

    shape: Shape
    proposals: list[NDArray[Any]]

    def proposal(self, sequence: int, node: int) -> NDArray[Any]:
        """The logits (Vd,) that the children of a node, which has some, were drawn from."""
        level: NDArray[Any] = self.proposals[len(self.shape.nodes[node])][sequence]
        logits: NDArray[Any] = level[self.shape.beam_rows[node]]
        return logits


class DrawnTree(DraftTree):
    """A `DraftTree` whose next beam, and whose nodes, are those of a shape, whatever their tokens and scores are.

    The W children of a beam row are those with the largest logit / temperature + noise, largest first (`expand_beam`).
    With Gumbel noise that is a draw of W tokens without replacement from the softmax of logits / temperature: the first
    has that law, and each other one what is left of it (Kool et al. 2019). The noise of a place serves all rows of a
    level; only one of them is ever walked through.

    Args:
        batch: sequences B.
        shape: of every tree.
        device: of all buffers; the CPU.
    """

    def __init__(self, batch: int, shape: Shape, device: torch.device) -> None:
        super().__init__(batch, shape.width, shape.depth, shape.size, device)
        self.shape = shape
        self._proposals: list[NDArray[Any]] = []
        self._set_nodes()
        self._set_beams()

    def begin(self, roots: torch.Tensor, lengths: torch.Tensor, text: TextCandidates | None = None) -> None:
        """See `DraftTree.begin`; there is no text in a drawn tree."""
        super().begin(roots, lengths, text)
        self._proposals.clear()

    def draw(self, logits: torch.Tensor, d2t: torch.Tensor | None, shared: SharedNoise | None = None) -> None:
        """See `DraftTree.draw`; copies the logits that nodes are drawn from, and sets the shape's next beam."""
        super().draw(logits, d2t, shared)
        level = self.levels
        self._proposals.append(np.array(as_array(logits[:, : len(self.shape.beams[level])])))
        if level < self.shape.depth:
            self.beam_nodes[:, level] = self._beam_nodes[level]
            self.beam_rows[:] = self._beam_rows[level]
            self.beam_masks[:, level] = self._beam_masks[level]
            torch.index_select(self.tokens, 1, self._beam_nodes[level], out=self.beam_tokens)

    def select(self, size: int, room: int = 0) -> DrawnNodes:
        """All nodes of the shape, with the root; of another size there are none."""
        assert max(size, room) == self.shape.size, f"a drawn tree has {self.shape.size} candidates, not {size}"
        nodes = self.nodes
        nodes.tokens[:, 0] = self.roots
        nodes.tokens[:, 1:] = self.tokens[:, self._node_candidates]
        torch.add(self.lengths[:, None].long(), self._node_depths, out=nodes.positions)
        return DrawnNodes(
            nodes.tokens,
            nodes.parents,
            nodes.positions,
            nodes.masks,
            nodes.first_child,
            nodes.next_sibling,
            nodes.candidates,
            self.shape,
            self._proposals,
        )

    def _set_nodes(self) -> None:
        """All of the nodes that does not depend on tokens."""
        shape, nodes = self.shape, self.nodes
        first, following = [-1] * len(shape.nodes), [-1] * len(shape.nodes)
        for number, children in enumerate(shape.children):
            first[number] = children[0] if children else -1
            for child, sibling in pairwise(children):
                following[child] = sibling
        own = own_bits(len(shape.nodes), nodes.masks.device)
        for number, parent in enumerate(shape.parents):
            if parent >= 0:
                own[number] |= own[parent]
        nodes.masks[:] = own
        for links, values in (
            (nodes.parents, shape.parents),
            (nodes.first_child, first),
            (nodes.next_sibling, following),
            (nodes.candidates, shape.candidates),
        ):
            links[:] = torch.tensor(values, dtype=torch.int32)
        self._node_candidates = torch.tensor(shape.candidates[1:])
        self._node_depths = torch.tensor([len(place) for place in shape.nodes])

    def _set_beams(self) -> None:
        """The beams behind all levels but the last. Rows that the shape does not need do what the first one does."""
        shape, width = self.shape, self.width
        self._beam_nodes = torch.zeros(shape.depth, width, dtype=torch.int64)
        self._beam_rows = torch.zeros(shape.depth, width, dtype=torch.int64)
        bits = own_bits((shape.depth + 1) * width, self.beam_masks.device)
        self._beam_masks = bits[: shape.depth * width].unflatten(0, (shape.depth, width))
        for level in range(shape.depth):
            beam = shape.beams[level + 1]
            for row, number in enumerate([*beam, *[beam[0]] * (width - len(beam))]):
                before = shape.beam_rows[shape.parents[number]]
                self._beam_nodes[level, row] = shape.candidates[number]
                self._beam_rows[level, row] = before
                if level:
                    self._beam_masks[level, row] |= self._beam_masks[level - 1, before]
