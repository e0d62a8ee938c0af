"""Calls of all operators with random arguments, to compare devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from forward_calls import forward_arguments, gather_arguments
from near_draws import RIGHT
from op_cases import (
    DTYPES,
    BeamBuffers,
    NodeBuffers,
    bits_of,
    candidate_columns,
    noise_ring,
    random_candidates,
    random_nodes,
)
from torch import Tensor

from ltd import ops
from random_weights import random_weights


@dataclass
class Call:
    """An operator with its arguments."""

    name: str
    arguments: list[object]

    def on(self, device: str) -> Call:
        """The same with copies of all tensors there."""
        return Call(self.name, [moved(argument, device) for argument in self.arguments])

    def run(self) -> list[Tensor]:
        """What it returns, then all tensors among the arguments, whether it has written them or not."""
        result = getattr(torch.ops.ltd, self.name)(*self.arguments)
        returned = [] if result is None else [result] if isinstance(result, Tensor) else list(result)
        return [*returned, *(argument for argument in self.arguments if isinstance(argument, Tensor))]

    def compare(self, results: list[Tensor], wanted: list[Tensor]) -> None:
        """Raises AssertionError where results are not the same: whole numbers exactly, others up to rounding. Tokens
        that were drawn may differ where both are right, as rounding decides between them (near_draws)."""
        results = [result.cpu() for result in results]
        if self.name in RIGHT and not self.same(results, wanted):
            for side in (results, wanted):
                assert RIGHT[self.name](self.arguments, side), self.name
            return
        self.demand_same(results, wanted)

    def same(self, results: list[Tensor], wanted: list[Tensor]) -> bool:
        """Whether demand_same has nothing to say."""
        try:
            self.demand_same(results, wanted)
        except AssertionError:
            return False
        return True

    def demand_same_bits(self, results: list[Tensor], wanted: list[Tensor]) -> None:
        """Raises AssertionError where results are not the same to the last bit."""
        for result, right in zip(results, wanted, strict=True):
            assert torch.equal(bits_of(result), bits_of(right)), self.name

    def demand_same(self, results: list[Tensor], wanted: list[Tensor]) -> None:
        """As compare, without an exception for tokens."""
        if self.name.startswith("accept_") and self.name != "accept_chain":  # nothing is said of a path behind its end
            # ... nor of which nodes' noise is kept: on the CPU that of visited ones.
            end = -5 if self.name == "accept_sample" else -3
            results, wanted = ([*tensors[:end], *recorded(*tensors[-3:])] for tensors in (results, wanted))
        for result, right in zip(results, wanted, strict=True):
            if right.is_floating_point():
                loose = 1e-4 if right.dtype == torch.float32 else 2e-2
                torch.testing.assert_close(result, right, rtol=loose, atol=loose, equal_nan=True)
            else:
                assert torch.equal(result, right), self.name


def moved(argument: object, device: str) -> object:
    """A copy of a tensor, or of a list of tensors, there; anything else as it is."""
    if isinstance(argument, list):
        return [moved(part, device) for part in argument]
    return argument.to(device, copy=True) if isinstance(argument, Tensor) else argument


def recorded(path: Tensor, tokens: Tensor, gained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The results of an acceptance with zeros behind the end."""
    inside = torch.arange(path.shape[1], device=path.device) < gained[:, None]
    return path * inside, tokens * inside, gained


def random_calls(seed: int, vocabularies: Sequence[int] = (700, 8192, 32_001, 128_256)) -> Iterator[Call]:
    """Every operator with random arguments of random sizes, in a random floating-point type."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    dtype = DTYPES[random.integers(3)]
    batch = int(random.integers(1, 4))
    vocabulary = int(random.choice(vocabularies))
    normal = lambda *shape, scale=3.0: (scale * torch.randn(*shape, generator=generator)).to(dtype)  # noqa: E731
    yield from expand_calls(random, normal, batch, vocabulary)
    yield Call("row_entropy", [normal(batch, 3, vocabulary)])
    nodes = [random_nodes(random, int(random.integers(2, 64)), 600)] * batch
    tree = NodeBuffers.filled(nodes, [5] * batch)
    count = tree.node_tokens.shape[1]
    lengths = torch.randint(0, 900, (batch,), generator=generator).int()
    yield merge_call(random, batch)
    yield select_call(random, batch, lengths)
    yield attention_call(random, normal, tree.masks, tree.positions, lengths)
    links = [tree.node_tokens, tree.first_child, tree.next_sibling]
    logits = normal(batch, count, vocabulary)
    for node, parent in enumerate(nodes[0].parents):
        if parent >= 0 and random.random() < 0.7:
            logits[:, parent, nodes[0].tokens[node]] = 40.0
    empty = lambda: [  # noqa: E731
        torch.zeros(batch, count, dtype=torch.int32),
        torch.zeros(batch, count, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int32),
    ]
    warp = [float(random.uniform(0.3, 1.5)), int(random.choice([0, 5, 50])), float(random.choice([1.0, 0.9, 0.3]))]
    yield Call("accept_greedy", [logits, *links, *empty()])
    ring = noise_ring(batch, vocabulary, seed, list(range(batch)))
    drawn = ring.seed, ring.noise, ring.places
    yield Call("accept_sample", [logits, *links, tree.positions, ring.rows, *warp, *drawn, *empty()])
    yield Call("place_noise", [ring.seed, int(random.integers(100)), int(random.integers(1000)), vocabulary])
    draws = [seed, int(random.integers(100)), int(random.integers(1000))]
    yield Call("draft_token", [logits[0, 0].clone()[None], *warp, *draws])
    chain = int(random.integers(1, 7))
    drafted = torch.randint(0, vocabulary, (chain,), generator=generator)
    yield Call("accept_chain", [normal(chain + 1, vocabulary), normal(chain, vocabulary), None, drafted, *warp, *draws])
    yield commit_call(random, normal, batch, lengths)
    yield Call("gather_accepted", gather_arguments(random, normal, batch))
    yield from (Call(*call) for call in forward_arguments(random, normal, batch, lengths))
    yield from policy_calls(random, generator, normal, batch, lengths)


def expand_calls(random: np.random.Generator, normal, batch: int, vocabulary: int) -> Iterator[Call]:
    """Two levels, with and without noise, of which the second finds what the first has written on the CPU; none with
    scores so nearly equal that the order is one of rounding, which at scores of 20 and two devices' exponentials is
    some 1e-5."""
    width = int(random.integers(1, 17))
    buffers = BeamBuffers.new(batch, width, 2)
    d2t = torch.from_numpy(random.integers(0, 50, vocabulary))
    ring = noise_ring(batch, vocabulary + 20, 7, list(range(batch)))
    lengths = torch.from_numpy(random.integers(0, 900, batch)).int()
    shared = ring.noise, ring.places, ring.rows, ring.seed, lengths, 0.8, 1.3
    for (level, rows), noise in itertools.product(((0, 1), (1, width)), ((), shared)):
        call = Call("expand_beam", [normal(batch, rows, vocabulary), d2t, level, *buffers.arguments(), *noise])
        before = call.on("cpu")
        call.run()
        first = 0 if level == 0 else width
        gaps = buffers.scores[:, first : first + rows * width].sort(dim=1).values.diff(dim=1)
        if not ((gaps > 0) & (gaps < 1e-4)).any():
            yield before


def select_call(random: np.random.Generator, batch: int, lengths: Tensor) -> Call:
    """Candidates of trees of any shape; scores never rise from parent to child."""
    count = int(random.integers(1, 811))
    scores, parents = np.zeros((batch, count), dtype=np.float32), np.zeros((batch, count), dtype=np.int32)
    for b in range(batch):
        for candidate in range(count):
            parents[b, candidate] = parent = random.integers(-1, candidate) if candidate else -1
            scores[b, candidate] = (scores[b, parent] if parent >= 0 else 0.0) - random.choice([0.0, 0.25, 1.0, 3.0])
    size = int(random.integers(0, min(count, 240) + 1))
    tokens, roots = (torch.from_numpy(random.integers(0, 1000, shape)) for shape in ((batch, count), (batch,)))
    candidates = [tokens, torch.from_numpy(scores), torch.from_numpy(parents), count, roots, lengths]
    return Call("select_tree", [*candidates, *NodeBuffers.new(batch, size + 1).arguments()])


def merge_call(random: np.random.Generator, batch: int) -> Call:
    """Candidates of the text of which some are the head's, some below these, and some neither."""
    candidates, most = int(random.integers(0, 812)), int(random.integers(1, 65))
    head = [random_candidates(random, candidates, 6, 8) for _ in range(batch)]
    text = [random_candidates(random, int(random.integers(0, most + 1)), 6, 8) for _ in range(batch)]
    counts = torch.tensor([len(row[0]) for row in text], dtype=torch.int32)
    tokens, scores, parents = candidate_columns(text, most)
    roots = torch.from_numpy(random.integers(0, 1000, batch))
    written = [*candidate_columns(head, candidates + most + 3), torch.zeros(batch, candidates + most + 3).char()]
    appended = torch.zeros(batch, dtype=torch.int32)
    return Call("merge_text", [tokens, parents, scores, counts, candidates, roots, *written, appended])


def attention_call(random: np.random.Generator, normal, masks: Tensor, positions: Tensor, lengths: Tensor) -> Call:
    """Grouped heads of any of the usual sizes; with or without a window."""
    batch, nodes = positions.shape
    head_dim, heads, group = (int(random.choice(sizes)) for sizes in ([64, 80, 96, 128, 256], [1, 2, 3], [1, 3, 4]))
    longest = int(lengths.max()) + nodes
    capacity = longest + int(random.choice([0, 500]))
    query = normal(batch, heads * group, nodes, head_dim, scale=1.0)
    keys, values = (normal(batch, heads, capacity, head_dim, scale=1.0) for _ in range(2))
    window = int(random.choice([0, 40]))
    shifted = positions + lengths[:, None]
    tree = [lengths, nodes, masks, shifted, head_dim**-0.5, window]
    bound = int(random.choice([-1, longest]))
    counters = torch.zeros(ops.MERGE_COUNTERS, dtype=torch.int32) if random.integers(2) else None
    return Call("tree_attention", [query, keys, values, *tree, bound, counters])


def commit_call(random: np.random.Generator, normal, batch: int, lengths: Tensor) -> Call:
    """Paths that move some rows over others."""
    keys, values = (normal(3, batch, 2, int(lengths.max()) + 64, 80) for _ in range(2))
    path = torch.zeros(batch, 12, dtype=torch.int32)
    gained = torch.from_numpy(random.integers(0, 12, batch)).int()
    for b, count in enumerate(gained.tolist()):
        path[b, :count] = torch.from_numpy(np.sort(random.choice(64, count, replace=False)))
    return Call("commit_path", [keys, values, path, gained, lengths.clone(), bool(random.integers(2))])


def policy_calls(
    random: np.random.Generator, generator: torch.Generator, normal, batch: int, lengths: Tensor
) -> Iterator[Call]:
    """The paper's networks, and one that reads the summary."""
    uses_tanh = bool(random.integers(2))
    for name, count, slots, repeats, sizes in (
        ("depth_action", 100, 100, 14, [128, 1024, 2]),
        ("size_action", 810, 1210, 29, [1268, 1024, 256, 24]),
    ):
        scores = -10 * torch.rand(batch, count, generator=generator)
        weights = random_weights(sizes, generator)
        yield Call(name, [scores, lengths, 8, slots, repeats, weights, uses_tanh])
    scores = -10 * torch.rand(batch, 810, generator=generator)
    width = 2 * (24 + 8) + 2 + 1 + 13 + 576 + 24
    networks = [random_weights([width, 64, outputs], generator) for outputs in (2, 24)]
    flat = torch.cat([weight.flatten() for weights in networks for weight in weights])
    text = torch.randn(batch, 24, generator=generator)
    drafted = [810, 710, lengths, 8] if random.integers(2) else [0, 0, lengths, -1]
    read = [scores, *drafted, 24, 8, normal(batch, 1, 576), text]
    written = torch.zeros(batch, 2, dtype=torch.int32)
    yield Call("summary_state", [read[-2], flat, [64, 2], [64, 24], 24, 8, True])
    yield Call("summary_decision", [*read, flat, [64, 2], [64, 24], uses_tanh, written])
