"""What the tests of the operators share: all their kernels, buffers, random trees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from emulated import emulated_kernels
from operator_reference import ListNodes, ListTree, pack, select_nodes
from torch import Tensor

from ltd import _C, ops

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ISAS: list[str] = ops.build_info()["cpu_isas"]  # type: ignore[assignment]
ISA_IN_USE = str(ops.build_info()["cpu_kernels"])  # where no test changes it
ORDERS = itertools.count(1)  # of the threads of emulated kernels


def bits_of(tensor: Tensor) -> Tensor:
    """uint8 (bytes,): a copy of all that a tensor of any shape and strides holds, in the order of its elements."""
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def every_kernel() -> Iterator[str]:
    """Switches through all kernels of the operators: those of all instruction sets of this processor with one thread,
    the widest with two, and the emulated CUDA kernels, whose threads run in another order every time."""
    yield from every_cpu_kernel()
    with emulated_kernels(next(ORDERS)):
        yield "emulated CUDA"


def every_cpu_kernel() -> Iterator[str]:
    """The CPU kernels among every_kernel()."""
    threads = torch.get_num_threads()
    try:
        for isa, count in [*((isa, 1) for isa in ISAS), (ISAS[-1], 2)]:
            _C.use_cpu_isa(isa)
            torch.set_num_threads(count)
            yield f"{isa}, {count} threads"
    finally:
        _C.use_cpu_isa(ISA_IN_USE)
        torch.set_num_threads(threads)


def strided(tensor: Tensor) -> Tensor:
    """The same values, with gaps in every dimension but the last (which keeps stride 1)."""
    *outer, last = tensor.shape
    roomy = torch.full([n + 1 for n in outer] + [last + 3], 7, dtype=tensor.dtype)
    view = roomy[(*tuple(slice(0, n) for n in outer), slice(1, last + 1))]
    return view.copy_(tensor)


@dataclass
class BeamBuffers:
    """The tensors that expand_beam reads and writes, in the order of its arguments, full of rubbish at first."""

    tokens: Tensor
    scores: Tensor
    parents: Tensor
    beam_nodes: Tensor
    beam_rows: Tensor
    beam_tokens: Tensor
    beam_masks: Tensor

    @classmethod
    def new(cls, batch: int, width: int, levels: int, roomy: bool = False) -> BeamBuffers:
        capacity, words = width + (levels - 1) * width * width, -(-levels * width // 64)
        rubbish = lambda *shape, dtype: torch.full(shape, 99, dtype=dtype)  # noqa: E731
        made = cls(
            tokens=rubbish(batch, capacity, dtype=torch.int64),
            scores=rubbish(batch, capacity, dtype=torch.float32),
            parents=rubbish(batch, capacity, dtype=torch.int32),
            beam_nodes=rubbish(batch, levels, width, dtype=torch.int32),
            beam_rows=rubbish(batch, width, dtype=torch.int64),
            beam_tokens=rubbish(batch, width, dtype=torch.int64),
            beam_masks=rubbish(batch, levels, width, words, dtype=torch.int64),
        )
        if roomy:
            for field in fields(cls):
                if field.name != "beam_masks":
                    setattr(made, field.name, strided(getattr(made, field.name)))
            made.beam_masks = torch.full((batch, levels + 1, width, words), 99)[:, 1:]
        return made

    def arguments(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass
class NodeBuffers:
    """The tensors that select_tree writes, in the order of its arguments, full of rubbish at first."""

    node_tokens: Tensor
    node_parents: Tensor
    positions: Tensor
    masks: Tensor
    first_child: Tensor
    next_sibling: Tensor
    node_candidates: Tensor

    @classmethod
    def new(cls, batch: int, nodes: int, words: int | None = None, roomy: bool = False) -> NodeBuffers:
        words = words or -(-nodes // 64)
        shapes = {"masks": (batch, nodes, words)}
        types = dict.fromkeys(("node_tokens", "positions", "masks"), torch.int64)
        made = {
            field.name: torch.full(shapes.get(field.name, (batch, nodes)), 99, dtype=types.get(field.name, torch.int32))
            for field in fields(cls)
        }
        return cls(**({name: strided(tensor) for name, tensor in made.items()} if roomy else made))

    def arguments(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def filled(cls, rows: list[ListNodes], lengths: list[int]) -> NodeBuffers:
        """What select_tree should have written for these trees."""
        made = cls.new(len(rows), len(rows[0].tokens))
        for b, (nodes, length) in enumerate(zip(rows, lengths, strict=True)):
            made.node_tokens[b] = torch.tensor(nodes.tokens)
            made.node_parents[b] = torch.tensor(nodes.parents)
            made.positions[b] = torch.tensor(nodes.depths) + length
            made.masks[b] = pack(nodes.ancestors, made.masks.shape[2])
            made.first_child[b] = torch.tensor(nodes.first_child)
            made.next_sibling[b] = torch.tensor(nodes.next_sibling)
            made.node_candidates[b] = torch.tensor(nodes.candidates)
        return made


def noise_ring(batch: int, vocabulary: int, seed: int, rows: list[int], capacity: int = 8) -> ops.Noise:
    """Noise that is not made yet; where it will be is full of zeros."""
    noise = ops.Noise.new(batch, vocabulary, rows, "cpu", capacity)
    noise.restart(seed, rows)
    noise.noise.zero_()
    return noise


def random_nodes(random: np.random.Generator, nodes: int, vocabulary: int) -> ListNodes:
    """A tree of any shape whose siblings have different tokens."""
    parents, taken = [], {-1: set()}
    tokens: list[int] = []
    for candidate in range(nodes - 1):
        parent = int(random.integers(-1, candidate)) if candidate else -1
        free = [p for p in (parent, *range(-1, candidate)) if len(taken[p]) < vocabulary]
        parent = free[0]
        token = int(random.choice([t for t in range(min(vocabulary, 600)) if t not in taken[parent]]))
        taken[parent].add(token)
        taken[candidate] = set()
        parents.append(parent)
        tokens.append(token)
    scores = [-float(i) for i in range(nodes - 1)]
    return select_nodes(tokens, scores, parents, nodes - 1, root=int(random.integers(vocabulary)))


Candidates = tuple[list[int], list[float], list[int]]  # tokens, scores, parents
DROPS = [0.0, 0.0, 0.25, 0.5, 3.0, math.inf, math.nan]


def random_candidates(
    random: np.random.Generator, count: int, vocabulary: int = 1000, fertile: int | None = None
) -> Candidates:
    """A tree of any shape, in which scores do not rise; many ties, some -inf and NaN.

    Args:
        fertile: only the root and so many of the first candidates have children; None is all. Two such trees of a small
            vocabulary have a part in common.
    """
    scores: list[float] = []
    parents: list[int] = []
    for candidate in range(count):
        last = candidate if fertile is None else min(candidate, fertile)
        parent = int(random.integers(-1, last)) if last else -1
        above = scores[parent] if parent >= 0 else 0.0
        # A child of a node without a finite score has none either.
        drop = random.choice(DROPS) if not math.isnan(above) else math.nan
        # Half of the zeros are negative: they must rank as equal.
        scores.append(above - drop if above - drop else random.choice([0.0, -0.0]))
        parents.append(parent)
    return random.integers(0, vocabulary, count).tolist(), scores, parents


def candidate_columns(rows: Sequence[Candidates], size: int) -> list[Tensor]:
    """Tokens, scores and parents in so many columns; behind a row's candidates is rubbish."""
    types = (torch.int64, torch.float32, torch.int32)
    columns = [torch.full((len(rows), size), 77, dtype=dtype) for dtype in types]
    for b, row in enumerate(rows):
        for column, values in zip(columns, row, strict=True):
            column[b, : len(values)] = torch.tensor(values, dtype=column.dtype)
    return columns


def near_tie(tree: ListTree, gap: float = 2e-5) -> bool:
    """Whether some candidates of one level score so alike that rounding may decide their order."""
    bounds = [0] + [tree.width + level * tree.width**2 for level in range(len(tree.beams))]
    for start, stop in itertools.pairwise(bounds):
        level = np.sort(np.array(tree.scores[start:stop]))
        if np.any((np.diff(level) < gap) & (np.diff(level) > 0)):
            return True
    return False
