"""CUDA kernels do not depend on the order of their threads, and need every barrier that they have.

A barrier that can be taken out without a test noticing is either superfluous or not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from emulated import barriers, emulated_kernels, visits, without_barrier
from forward_calls import forward_arguments, gather_arguments
from op_cases import DTYPES, BeamBuffers, NodeBuffers, candidate_columns, noise_ring, random_candidates, random_nodes
from random_calls import Call
from torch import Tensor

from ltd import ops
from random_weights import random_weights

SEEDS = 24
# What other blocks read must have been written before. Blocks run one after the other here, so that this is always so.
BETWEEN_BLOCKS = {"last_block.cuh:12"}

# What a case's operator writes. Each call gets the same inputs.
Case = Callable[[], list[Tensor]]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expanded(
    vocabulary: int, width: int, dtype: torch.dtype, batch: int = 2, levels: int = 3, noisy: bool = False
) -> Case:
    logits = [
        (3 * torch.randn(batch, width if level else 1, vocabulary, generator=generator(level)))
        .round(decimals=1)
        .to(dtype)
        for level in range(levels)
    ]
    d2t = torch.arange(vocabulary)

    def run() -> list[Tensor]:
        buffers = BeamBuffers.new(batch, width, levels)
        if not noisy:
            for level, given in enumerate(logits):
                ops.expand_beam(given, d2t, level, *buffers.arguments())
            return buffers.arguments()
        noise, lengths = noise_ring(batch, 2 * vocabulary, 5, list(range(batch)), 2), torch.arange(batch).int()
        for level, given in enumerate(logits):
            ops.expand_beam(given, d2t, level, *buffers.arguments(), noise, lengths, 0.7, 1.5)
        return [*buffers.arguments(), noise.noise, noise.places]

    return run


def entropies(vocabulary: int, dtype: torch.dtype) -> Case:
    logits = torch.randn(1, 3, vocabulary, generator=generator(1)).to(dtype)
    return lambda: [ops.row_entropy(logits)]


def selected(candidates: int, size: int) -> Case:
    random = np.random.default_rng(candidates)
    parents = [-1] + [int(random.integers(-1, candidate)) for candidate in range(1, candidates)]
    scores: list[float] = []
    for parent in parents:
        scores.append((scores[parent] if parent >= 0 else 0.0) - float(random.choice([0.0, 0.0, 0.25, 1.0])))
    columns = [
        torch.tensor([random.integers(0, 1000, candidates).tolist()]),
        torch.tensor([scores]),
        torch.tensor([parents], dtype=torch.int32),
    ]

    def run() -> list[Tensor]:
        buffers = NodeBuffers.new(1, size + 1)
        root, length = torch.tensor([4]), torch.tensor([17], dtype=torch.int32)
        ops.select_tree(*columns, candidates, root, length, *buffers.arguments())
        return buffers.arguments()

    return run


def merged(candidates: int, most: int) -> Case:
    random = np.random.default_rng(candidates)
    head, text = (random_candidates(random, count, 4, 6) for count in (candidates, most))
    columns, (tokens, scores, parents) = candidate_columns([head], candidates + most), candidate_columns([text], most)
    count, root = torch.tensor([most], dtype=torch.int32), torch.tensor([4])

    def run() -> list[Tensor]:
        written = [column.nan_to_num(-9.0).clone() for column in columns]
        written += [torch.full((1, candidates + most), 99, dtype=torch.int8), torch.full((1,), 99, dtype=torch.int32)]
        ops.merge_text(tokens, parents, scores, count, candidates, root, *written)
        return written

    return run


def attended(
    head_dim: int, prefix: int, nodes: int, dtype: torch.dtype, window: int = 0, counted: bool = False, before: int = 0
) -> Case:
    """The last nodes of a tree, which has so many before them."""
    random, rows = generator(head_dim + prefix), before + nodes
    query = torch.randn(1, 2, nodes, head_dim, generator=random).to(dtype)
    keys, values = (torch.randn(1, 1, prefix + rows, head_dim, generator=random).to(dtype) for _ in range(2))
    tree = NodeBuffers.filled([random_nodes(np.random.default_rng(prefix), rows, 1000)], [prefix])
    lengths = torch.tensor([prefix], dtype=torch.int32)
    masks, positions = tree.masks[:, before:], tree.positions[:, before:]
    arguments = query, keys, values, lengths, rows, masks, positions, head_dim**-0.5, window

    def run() -> list[Tensor]:
        counters = torch.zeros(ops.MERGE_COUNTERS, dtype=torch.int32) if counted else None
        output = ops.tree_attention(*arguments, counters=counters)
        return [output] if counters is None else [output, counters]

    return run


def accepted(vocabulary: int, dtype: torch.dtype, *warp: float) -> Case:
    """A walk along a chain that the logits agree with for three tokens."""
    logits = torch.randn(2, 6, vocabulary, generator=generator(vocabulary)).to(dtype)
    random = np.random.default_rng(2)
    tree = NodeBuffers.filled([random_nodes(random, 6, vocabulary) for _ in range(2)], [3, 9])
    for b, node in ((0, 0), (0, 1), (1, 0)):
        child = tree.first_child[b, node]
        if child >= 0:
            logits[b, node, tree.node_tokens[b, child]] = 30.0

    def run() -> list[Tensor]:
        walked = torch.full((2, 6), 99, dtype=torch.int32)
        tokens, gained = torch.full((2, 6), 99), torch.full((2,), 99, dtype=torch.int32)
        links = tree.node_tokens, tree.first_child, tree.next_sibling
        if warp:
            noise = noise_ring(2, vocabulary, 11, [0, 1])
            ops.accept_sample(logits, *links, tree.positions, *warp, noise, walked, tokens, gained)
            return [walked, tokens, gained, noise.noise, noise.places]
        ops.accept_greedy(logits, *links, walked, tokens, gained)
        return [walked, tokens, gained]

    return run


def committed(head_dim: int, dtype: torch.dtype) -> Case:
    caches = [torch.randn(2, 2, 3, 60, head_dim, generator=generator(seed)).to(dtype) for seed in range(2)]
    path = torch.tensor([[0, 1, 3, 4, 9, 20], [0, 2, 3, 5, 6, 7]], dtype=torch.int32)
    gained, lengths = torch.tensor([6, 5], dtype=torch.int32), torch.tensor([30, 2], dtype=torch.int32)

    def run() -> list[Tensor]:
        moved, grown = [cache.clone() for cache in caches], lengths.clone()
        ops.commit_path(*moved, path, gained, grown, advance=True)
        return [*moved, grown]

    return run


def called(name: str, seed: int, dtype: torch.dtype) -> Case:
    """An operator between a forward's products, or what hands a cycle on, as `random_calls` would call it."""
    random, numbers = np.random.default_rng(seed), generator(seed)
    normal = lambda *shape: torch.randn(*shape, generator=numbers).to(dtype)  # noqa: E731
    lengths = torch.tensor([7, 0], dtype=torch.int32)
    arguments = dict(forward_arguments(random, normal, 2, lengths))
    given = gather_arguments(random, normal, 2) if name == "gather_accepted" else arguments[name]

    def run() -> list[Tensor]:
        call = Call(name, given).on("cpu")
        return call.run()

    return run


def decided(hidden: list[int]) -> Case:
    weights = random_weights([130, *hidden, 24], generator(sum(hidden)))
    scores = -30 * torch.rand(2, 100, generator=generator(1))
    lengths = torch.tensor([100, 4000], dtype=torch.int32)
    return lambda: [ops.depth_action(scores, lengths, 3, 110, 10, weights)]


def summarised(states: int, hidden: list[int], text: int = 0) -> Case:
    given = 2 * (10 + 5) + 2 + 1 + 13 + states + text
    weights = [random_weights([given, *hidden, actions], generator(actions)) for actions in (2, 20)]
    flat = torch.cat([weight.flatten() for network in weights for weight in network])
    scores = -30 * torch.rand(2, 400, generator=generator(2))
    hidden_states = torch.randn(2, 1, states, generator=generator(4)) if states else None
    given_text = torch.randn(2, text, generator=generator(5)) if text else None
    lengths = torch.tensor([100, 4000], dtype=torch.int32)

    def run() -> list[Tensor]:
        actions = torch.full((2, 2), 99, dtype=torch.int32)
        ops.summary_decision(
            scores,
            380,
            300,
            lengths,
            3,
            10,
            5,
            hidden_states,
            given_text,
            flat,
            [*hidden, 2],
            [*hidden, 20],
            False,
            actions,
        )
        return [actions]

    return run


def drawn(vocabulary: int, dtype: torch.dtype, *warp: float) -> Case:
    logits = torch.randn(1, vocabulary, generator=generator(vocabulary)).to(dtype)
    return lambda: list(ops.draft_token(logits, *warp, 5, 1, 30))


def followed(vocabulary: int, dtype: torch.dtype, *warp: float) -> Case:
    """A chain that is kept as a whole, and one of which nothing is."""
    words = torch.arange(0, vocabulary, 2)
    logits = torch.randn(6, vocabulary, generator=generator(vocabulary)).to(dtype)
    draft = logits[:5, words].contiguous()
    kept, lost = logits[:5, words].argmax(dim=1), draft.argmin(dim=1)
    liked = logits.index_put((torch.arange(5), words[kept]), torch.tensor(40.0, dtype=dtype))
    disliked = draft.index_put((torch.arange(5), lost), torch.tensor(40.0, dtype=dtype))

    def run() -> list[Tensor]:
        return [
            ops.accept_chain(liked, draft, words, kept, *warp, 7, 2, 40),
            ops.accept_chain(logits, disliked, words, lost, *warp, 7, 2, 40),
        ]

    return run


WARPS = ((1.0, 0, 1.0), (0.7, 20, 1.0), (1.0, 0, 0.9), (1.3, 30, 0.8), (1.0, 1, 0.9))
CASES: dict[str, list[Case]] = {
    "expand_beam": [
        *(expanded(*sizes, dtype) for sizes in ((600, 5), (5000, 2)) for dtype in DTYPES),
        expanded(600, 5, torch.bfloat16, noisy=True),
        expanded(140000, 1, torch.float32, batch=1, levels=1),  # more than one tile a split
    ],
    "row_entropy": [entropies(vocabulary, dtype) for vocabulary in (700, 20000) for dtype in DTYPES],
    "merge_text": [merged(40, 20), merged(600, 64), merged(0, 5)],
    "select_tree": [selected(40, 30), selected(600, 300), selected(2048, 512)],
    "tree_attention": [
        *(attended(head_dim, 150, 12, dtype) for head_dim in (64, 80, 128) for dtype in DTYPES[1:]),
        attended(64, 150, 12, torch.float32),
        attended(64, 500, 20, torch.bfloat16, window=100),
        attended(7, 30, 5, torch.float32),
        attended(136, 130, 2, torch.float32),  # heads whose outputs two blocks share
        attended(64, 20, 3, torch.bfloat16, before=260),  # more of a tree than shared memory holds
        attended(64, 300, 5, torch.bfloat16, counted=True),
        attended(136, 130, 2, torch.float32, counted=True),
    ],
    "accept_greedy": [accepted(vocabulary, dtype) for vocabulary in (50, 6000) for dtype in DTYPES],
    "accept_sample": [
        accepted(vocabulary, dtype, *warp)
        for vocabulary, dtype in ((50, torch.float32), (2500, torch.bfloat16))
        for warp in WARPS
    ],
    "place_noise": [lambda: [ops.place_noise(3, 1, 7, 9000)]],
    "draft_token": [
        drawn(vocabulary, dtype, *warp)
        for vocabulary, dtype in ((50, torch.float32), (2500, torch.bfloat16))
        for warp in ((0.0, 0, 1.0), *WARPS)
    ],
    "accept_chain": [
        followed(vocabulary, dtype, *warp)
        for vocabulary, dtype in ((50, torch.float32), (2500, torch.bfloat16))
        for warp in ((0.0, 0, 1.0), *WARPS)
    ],
    "commit_path": [committed(16, torch.float32), committed(40, torch.bfloat16)],
    **{
        name: [called(name, seed, dtype) for seed, dtype in enumerate(DTYPES)]
        for name in ("gather_accepted", "add_rms_norm", "rotate_and_store", "gated_silu")
    },
    "depth_action": [decided([]), decided([64]), decided([70, 30])],
    "summary_decision": [summarised(0, [64, 32]), summarised(576, []), summarised(37, [16], text=24)],
}


def barriers_of(case: Case) -> Iterator[int]:
    before = visits()
    case()
    for number, count in enumerate(visits()):
        if count > (before[number] if number < len(before) else 0):
            yield number


def differs(case: Case, expected: list[Tensor], seed: int) -> bool:
    with emulated_kernels(seed):
        try:
            return not all(map(torch.equal, case(), expected))
        except RuntimeError as problem:
            if "the kernel launched at" in str(problem):
                return True
            raise


@pytest.mark.parametrize("operator", CASES)
def test_the_order_of_threads_does_not_matter(operator):
    for case in CASES[operator]:
        with emulated_kernels(0):
            expected = case()
        for seed in range(1, SEEDS):
            with emulated_kernels(seed):
                for found, wanted in zip(case(), expected, strict=True):
                    assert torch.equal(found, wanted)


@pytest.mark.parametrize("operator", CASES)
def test_every_barrier_is_needed(operator):
    unnoticed = {}
    for case in CASES[operator]:
        with emulated_kernels(0):
            expected = case()
            used = list(barriers_of(case))
        for number in used:
            if unnoticed.get(number, True):
                with without_barrier(number):
                    unnoticed[number] = not any(differs(case, expected, seed) for seed in range(SEEDS))
    assert {barriers()[number] for number, kept in unnoticed.items() if kept} <= BETWEEN_BLOCKS
