"""The shape of a drawn tree: which nodes have how many children, by the order in which they were drawn alone.

Rejection looks at a node's children in the order in which they were drawn, and takes them for a draw from the draft's
distribution. They are one only if nobody has looked at the tokens first: of children of which the unlikely ones were
dropped, the rest is no such draw, and the text would have another law than the target's. So there is a node, or none,
whatever its token is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from ltd.errors import InputError
from ltd.tree import candidate_count

Place = tuple[int, ...]
"""Of a node: the rank of each node on the way to it from the root among its siblings, 0 for the first drawn."""

FIRST_CHANCE, FALL = 0.3, 1.5
"""Roughly how often a node's first child is accepted, and how that falls with the rank: as (rank + 1) ** -FALL.

Measured for the default target and head at temperature 1: 0.30, 0.09, 0.05 and 0.04 for the first four, 0.07 for the
next four together. Speed depends on it, nothing else.
"""


@dataclass(frozen=True)
class Shape:
    """A tree's places.

    Args:
        width: beam width W of the draft: the most children of a node, and the most nodes of a level that have any.
        places: of all nodes but the root, level by level, siblings and their children in the order of their ranks.

    Attributes:
        nodes: the places by the number of the node; the root's, (), is the first.
    """

    width: int
    places: tuple[Place, ...]
    nodes: tuple[Place, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", ((), *self.places))

    @property
    def size(self) -> int:
        """Nodes without the root."""
        return len(self.places)

    @property
    def depth(self) -> int:
        """Expansions after the root's own draft forward."""
        return len(self.places[-1]) - 1

    @cached_property
    def numbers(self) -> dict[Place, int]:
        """The number of the node at a place."""
        return {place: number for number, place in enumerate(self.nodes)}

    @cached_property
    def parents(self) -> list[int]:
        """By the number of the node, its parent's; -1 for the root."""
        return [self.numbers[place[:-1]] if place else -1 for place in self.nodes]

    @cached_property
    def children(self) -> list[list[int]]:
        """By the number of the node, those of its children in the order in which they are drawn."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, parent in enumerate(self.parents):
            if parent >= 0:
                found[parent].append(number)
        return found

    @cached_property
    def beams(self) -> list[list[int]]:
        """By level, the nodes that are expanded next, the root's own forward first: those that have children."""
        found: list[list[int]] = [[] for _ in range(self.depth + 1)]
        for number, place in enumerate(self.nodes):
            if self.children[number]:
                found[len(place)].append(number)
        return found

    @cached_property
    def beam_rows(self) -> list[int]:
        """By the number of the node, its row in its level's beam; -1 for one that has no children."""
        rows = [-1] * len(self.nodes)
        for beam in self.beams:
            for row, number in enumerate(beam):
                rows[number] = row
        return rows

    @cached_property
    def candidates(self) -> list[int]:
        """By the number of the node, the candidate of a `DraftTree` that stands for it; -1 for the root."""
        return [
            candidate_count(self.width, len(place) - 2) + self.beam_rows[parent] * self.width + place[-1]
            if place
            else -1
            for place, parent in zip(self.nodes, self.parents, strict=True)
        ]


def ranked_shape(depth: int, size: int, width: int) -> Shape:
    """The chain of first children down to a depth, and beside it the places that are likeliest to be accepted.

    Args:
        depth: expansions after the root's own draft forward.
        size: places, `depth` + 1 at least.
        width: see `Shape`.

    Raises:
        InputError: fewer places than the chain has, or more than there are.
    """
    check_size(depth, size)
    chosen = list(islice(likeliest(depth, width), size))
    if len(chosen) < size:
        raise InputError(
            f"a drawn tree of depth {depth} and beam width {width} has at most {len(chosen)} candidates, not {size}; "
            "lower the size, or draft deeper"
        )
    return Shape(width, tuple(sorted(chosen, key=lambda place: (len(place), place))))


def check_size(depth: int, size: int) -> None:
    """Raises InputError if a drawn tree of so many candidates does not reach a depth."""
    if size <= depth:
        raise InputError(
            f"a drawn tree of depth {depth} needs a size of at least {depth + 1}, one candidate a level, not {size}"
        )


def likeliest(depth: int, width: int) -> Iterator[Place]:
    """The places down to a depth, the chain of first children first, parents before children, siblings in order."""
    expanded: list[int] = [0] * (depth + 1)  # nodes with children, by the level of these
    heap: list[tuple[float, Place]] = [(-chance((0,)), (0,))]
    while heap:
        _, place = heapq.heappop(heap)
        level, rank = len(place) - 1, place[-1]
        if rank == 0:
            if expanded[level] == width:
                continue
            expanded[level] += 1
        yield place
        following = [(*place[:-1], rank + 1)] if rank + 1 < width else []
        if level < depth:
            following.append((*place, 0))
        for other in following:
            heapq.heappush(heap, (-chance(other), other))


def chance(place: Place) -> float:
    """Roughly that of the node there to be accepted; 1 on the chain of first children, which is always there."""
    if not any(place):
        return 1.0
    product = 1.0
    for rank in place:
        product *= FIRST_CHANCE * (rank + 1) ** -FALL
    return product
