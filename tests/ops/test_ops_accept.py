"""accept_greedy and accept_sample against Python walks, enumerated probabilities and transformers' warpers."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_draws import MARGIN, may_sample
from noise_reference import place_noise
from op_cases import DTYPES, NodeBuffers, every_kernel, noise_ring, random_nodes, strided
from operator_reference import (
    ListNodes,
    next_token_greedy,
    philox4x32_10,
    select_nodes,
    uniform,
    walk,
    warped_probabilities,
)
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ltd import _C, ops
from ltd.errors import InputError


def results(batch: int, capacity: int, roomy: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """path, gained_tokens and gained, full of rubbish."""
    path = torch.full((batch, capacity), 99, dtype=torch.int32)
    tokens = torch.full((batch, capacity), 99)
    gained = torch.full((batch,), 99, dtype=torch.int32)
    return (strided(path), strided(tokens), gained) if roomy else (path, tokens, gained)


def agreeing_logits(nodes: ListNodes, vocabulary: int, random: np.random.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Logits (N, vocabulary) with many ties whose argmax is mostly the token of some child, so that walks go deep."""
    logits = torch.from_numpy(random.integers(-8, 8, (len(nodes.tokens), vocabulary)) / 2).to(dtype)
    for node in range(len(nodes.tokens)):
        children = [n for n, parent in enumerate(nodes.parents) if parent == node]
        if children and random.random() < 0.85:
            logits[node, nodes.tokens[random.choice(children)]] = 6
    return logits


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 64),
    vocabulary=st.sampled_from([1, 5, 17, 100, 1030, 5000]),
    dtype=st.sampled_from(DTYPES),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_greedy_walk(batch, count, vocabulary, dtype, roomy, seed):
    random = np.random.default_rng(seed)
    rows = [random_nodes(random, count if vocabulary > 5 else min(count, 5), vocabulary) for _ in range(batch)]
    logits = torch.stack([agreeing_logits(nodes, vocabulary, random, dtype) for nodes in rows])
    logits = strided(logits) if roomy else logits
    tree = NodeBuffers.filled(rows, [0] * batch)
    capacity = count + 2
    for _ in every_kernel():
        path, tokens, gained = results(batch, capacity, roomy)
        ops.accept_greedy(logits, tree.node_tokens, tree.first_child, tree.next_sibling, path, tokens, gained)
        for b, nodes in enumerate(rows):
            wanted_path, wanted = walk(nodes, lambda node, b=b: next_token_greedy(logits[b, node]))
            assert gained[b] == len(wanted)
            assert path[b, : len(wanted)].tolist() == wanted_path
            assert tokens[b, : len(wanted)].tolist() == wanted


def chain(tokens: list[int], root: int = 0) -> ListNodes:
    return select_nodes(
        tokens, [-float(i) for i in range(len(tokens))], list(range(-1, len(tokens) - 1)), len(tokens), root
    )


def accept(logits: torch.Tensor, nodes: ListNodes, capacity: int = 8, **sampling) -> tuple[list[int], list[int]]:
    """path and tokens gained for one sequence, greedy or sampled."""
    tree = NodeBuffers.filled([nodes], [sampling.pop("length", 0)])
    path, tokens, gained = results(1, capacity)
    links = [tree.node_tokens, tree.first_child, tree.next_sibling]
    if sampling:
        noise = noise_ring(1, logits.shape[1], sampling.pop("seed"), [sampling.pop("row", 0)])
        ops.accept_sample(logits[None], *links, tree.positions, *sampling.values(), noise, path, tokens, gained)
    else:
        ops.accept_greedy(logits[None], *links, path, tokens, gained)
    return path[0, : gained[0]].tolist(), tokens[0, : gained[0]].tolist()


SAMPLING = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "seed": 5}


@pytest.mark.parametrize("sampling", [{}, SAMPLING, SAMPLING | {"top_k": 3}, SAMPLING | {"top_p": 0.5}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", ["nan", "inf", "all -inf"])
@pytest.mark.parametrize("vocabulary", [3, 33, 2100])
def test_rows_without_a_next_token_end_the_walk_only_where_visited(vocabulary, bad, dtype, sampling):
    logits = torch.full((4, vocabulary), -math.inf).to(dtype)
    logits[0, 2] = logits[2, 0] = logits[3, 1] = 1.0  # root -> token 2, then node 1
    logits[1] = {"nan": 0.0, "inf": 0.0, "all -inf": -math.inf}[bad]
    logits[1, vocabulary - 1] = {"nan": math.nan, "inf": math.inf, "all -inf": -math.inf}[bad]
    for _ in every_kernel():
        assert accept(logits, chain([2, 1, 1]), **sampling) == ([0, 1], [2, -1])
        assert accept(logits, chain([1, 1, 1]), **sampling) == ([0], [2])


@pytest.mark.parametrize("sampling", [{}, SAMPLING])
def test_the_walk_ends_when_the_path_is_full(sampling):
    logits = torch.full((6, 9), -math.inf)
    logits[:, 4] = 0.0
    for capacity, wanted in [(1, 1), (3, 3), (6, 6), (9, 6)]:
        path, tokens = accept(logits, chain([4] * 5), capacity, **sampling)
        assert path == list(range(wanted))
        assert tokens == [4] * wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [152_064, 262_144])
def test_greedy_over_the_largest_vocabularies(vocabulary, dtype):
    torch.manual_seed(vocabulary)
    logits = torch.randn(3, vocabulary).to(dtype)
    first = next_token_greedy(logits[0])
    logits[1, [vocabulary - 1, 777]] = 100.0
    for _ in every_kernel():
        assert accept(logits, chain([first, 0])) == ([0, 1], [first, 777])


# --- sampling ---

KNOWN_ANSWERS = [  # published with the Random123 library
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, words):
    assert tuple(_C.philox4x32_10(list(counter), list(key))) == words
    assert philox4x32_10(counter, key) == words


@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 2**40), row=st.integers(0, 2**20))
def test_uniform_numbers(seed, position, row):
    assert _C.sampling_uniform(seed, position, row) == uniform(seed, position, row)


def sample_row(logits: torch.Tensor, position: int, **sampling) -> int:
    path, tokens = accept(logits[None], chain([]), length=position, **sampling)
    assert path == [0]
    return tokens[0]


@settings(max_examples=120)
@given(
    vocabulary=st.sampled_from([1, 2, 30, 700, 5000]),
    temperature=st.sampled_from([0.05, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 50, 400, 10**6]),
    top_p=st.sampled_from([1.0, 1.0, 0.95, 0.6, 0.1, 1e-6]),
    ties=st.booleans(),
    holes=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    position=st.integers(0, 2**32 - 1),
    row=st.integers(0, 2**32 - 1),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_samples_are_the_largest_with_noise(
    vocabulary, temperature, top_k, top_p, ties, holes, dtype, position, row, seed
):
    generator = torch.Generator().manual_seed(seed & (2**32 - 1))
    logits = 3 * torch.randn(vocabulary, generator=generator)
    if ties:
        logits = logits.round()
    if holes and vocabulary > 2:
        logits[torch.rand(vocabulary, generator=generator) < 0.5] = -math.inf
        logits[1] = 0.0
    logits = logits.to(dtype)
    noise = place_noise(seed, row, position, vocabulary)
    for _ in every_kernel():
        token = sample_row(logits, position, row=row, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        assert may_sample(logits, (temperature, top_k, top_p), token, noise)


@settings(max_examples=40)
@given(
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 3, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_samples_follow_the_warpers_of_transformers(temperature, top_k, top_p, seed):
    torch.manual_seed(seed)
    logits = 4 * torch.randn(1, 300)
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    probabilities = torch.softmax(warped.double(), dim=-1)[0].numpy()
    for position in range(20):
        token = sample_row(logits[0], position, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        values = np.where(probabilities > 0, warped[0].double().numpy() + place_noise(seed, 0, position, 300), -np.inf)
        assert values[token] >= values.max() - MARGIN


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 1.0), (0, 0.9), (100_000, 0.99), (200, 0.8)])
@pytest.mark.parametrize("spread", [0.1, 4.0])
@pytest.mark.parametrize("vocabulary", [152_064, 262_144])
def test_samples_over_the_largest_vocabularies(vocabulary, spread, top_k, top_p):
    torch.manual_seed(vocabulary)
    logits = spread * torch.randn(vocabulary)
    noise = [place_noise(11, 0, position, vocabulary) for position in range(2)]
    for _ in every_kernel():
        for position in range(2):
            token = sample_row(logits, position, temperature=1.0, top_k=top_k, top_p=top_p, seed=11)
            assert may_sample(logits, (1.0, top_k, top_p), token, noise[position])


HALVES = [0.5, 0.25, 0.125, 0.0625, 0.0625]


@pytest.mark.parametrize(
    ("probabilities", "top_k", "top_p", "kept"),
    [
        (HALVES, 0, 1.0, {0, 1, 2, 3, 4}),
        (HALVES, 0, 0.7499, {0, 1}),
        (HALVES, 0, 0.7501, {0, 1, 2}),
        (HALVES, 0, 0.4999, {0}),
        (HALVES, 0, 1e-300, {0}),
        (HALVES[::-1], 0, 0.7501, {4, 3, 2}),
        (HALVES, 2, 1.0, {0, 1}),
        (HALVES, 4, 1.0, {0, 1, 2, 3, 4}),  # the fourth and fifth are equal: both stay
        (HALVES, 2, 0.6666, {0}),  # of the two that top-k leaves, the first holds two thirds
        (HALVES, 2, 0.6667, {0, 1}),
        ([0.125] * 8, 0, 0.3, {0, 1, 2}),  # equals: the smaller id is the better
        ([0.125] * 8, 3, 1.0, set(range(8))),
        ([0.0, 0.5, 0.0, 0.5], 3, 1.0, {1, 3}),
    ],
)
def test_which_tokens_can_be_drawn(probabilities, top_k, top_p, kept):
    draws = 400
    nodes = NodeBuffers.filled([chain([])], [0])
    links = [tensor.expand(draws, 1) for tensor in (nodes.node_tokens, nodes.first_child, nodes.next_sibling)]
    logits = torch.tensor(probabilities).log().expand(draws, 1, -1)
    positions = torch.arange(draws)[:, None]
    for _ in every_kernel():
        path, tokens, gained = results(draws, 1)
        noise = noise_ring(draws, logits.shape[2], 3, [0] * draws, capacity=1)
        ops.accept_sample(logits, *links, positions, 1.0, top_k, top_p, noise, path, tokens, gained)
        assert set(tokens.flatten().tolist()) == kept


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; outcomes of no probability must not occur."""
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = counts.sum() * probabilities[possible]
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.3, 4, 1.0), (1.0, 0, 0.8), (1.5, 5, 0.9)]
)
def test_pairs_of_tokens_have_the_targets_distribution(temperature, top_k, top_p):
    """A tree of two of six tokens before a model that remembers one token: the joint distribution is enumerated."""
    vocabulary, draws = 6, 40_000
    torch.manual_seed(top_k)
    model = 1.5 * torch.randn(vocabulary + 1, vocabulary)  # row: the token before; the last is the root
    nodes = select_nodes([1, 4], [-1.0, -2.0], [-1, -1], 2, root=0)
    tree = NodeBuffers.filled([nodes], [0])
    warped = np.stack([warped_probabilities(row.numpy(), temperature, top_k, top_p) for row in model])
    logits = torch.stack([model[vocabulary], model[1], model[4]])
    path, tokens, gained = results(draws, 3)
    rows = lambda tensor: tensor.expand(draws, *tensor.shape[1:])  # noqa: E731
    noise = noise_ring(draws, vocabulary, 12345, list(range(draws)), capacity=2)
    ops.accept_sample(
        rows(logits[None]), rows(tree.node_tokens), rows(tree.first_child), rows(tree.next_sibling),
        rows(tree.positions), temperature, top_k, top_p, noise, path, tokens, gained,
    )  # fmt: skip
    outcomes = {(t,): i for i, t in enumerate((0, 2, 3, 5))}
    outcomes |= {pair: len(outcomes) + i for i, pair in enumerate(itertools.product((1, 4), range(vocabulary)))}
    exact = np.array([warped[-1][o[0]] * (warped[o[0]][o[1]] if len(o) > 1 else 1.0) for o in outcomes])
    counts = np.zeros(len(outcomes))
    for row, count in zip(tokens.tolist(), gained.tolist(), strict=True):
        counts[outcomes[tuple(row[:count])]] += 1
    statistic, freedom = chi_square(counts, exact)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 8


def test_the_text_of_a_seed_does_not_depend_on_the_tree():
    torch.manual_seed(1)
    model = torch.randn(7, 7)  # row: the token before
    text = [3]
    for position in range(40):
        text.append(sample_row(model[text[-1]], position, temperature=1.0, top_k=0, top_p=1.0, seed=8))
    for length in range(30):
        drafted = text[length + 1 : length + 6]
        drafted[3] = (drafted[3] + 1) % 7  # a wrong draft: the rest of the chain must not matter
        nodes = chain(drafted, root=text[length])
        _, gained = accept(model[nodes.tokens], nodes, length=length, temperature=1.0, top_k=0, top_p=1.0, seed=8)
        assert gained == text[length + 1 : length + 5]


def bad_call(**changes):
    tree = NodeBuffers.filled([chain([1, 2])], [0])
    path, tokens, gained = results(1, 4)
    arguments = {
        "logits": torch.zeros(1, 3, 5),
        "tokens": tree.node_tokens,
        "first_child": tree.first_child,
        "next_sibling": tree.next_sibling,
        "path": path,
        "gained_tokens": tokens,
        "gained": gained,
    } | changes
    warp = {name: value for name, value in SAMPLING.items() if name != "seed"}
    sampling = {"positions": tree.positions, "noise": noise_ring(1, 5, 5, [0]), **warp}
    greedy = {name: value for name, value in arguments.items() if name not in sampling}
    ops.accept_sample(**(sampling | arguments))
    if greedy == arguments:
        ops.accept_greedy(**greedy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(1, 3, 0)}, "logits must have at least one row and one column"),
        ({"logits": torch.zeros(1, 3, 5).double()}, "logits must be of type Float, Half or BFloat16"),
        ({"tokens": torch.zeros(1, 4, dtype=torch.int64)}, "tokens must have size 3 in dimension 1"),
        ({"first_child": torch.zeros(1, 3)}, "first_child must be of type Int"),
        ({"gained_tokens": torch.zeros(1, 3, dtype=torch.int64)}, "gained_tokens must have size 4 in dimension 1"),
        ({"gained": torch.zeros(2, dtype=torch.int32)}, "gained must have size 1 in dimension 0"),
        *(
            ({"temperature": value}, rf"temperature must be 1e-30 to 1e\+30, but is {re.escape(f'{value:g}')}")
            for value in (0.0, -1.0, 1e-31, 1e31, math.inf, math.nan)
        ),
        ({"top_k": -1}, r"top_k must be 0 \(off\) or more, but is -1"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1 \(off\), but is 0"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1 \(off\), but is 1.5"),
        ({"noise": noise_ring(2, 5, 5, [0, 1])}, "noise must have size 1 in dimension 0"),
        ({"noise": noise_ring(1, 6, 5, [0])}, "noise must have size 5 in dimension 2"),
        (
            {"noise": replace(noise_ring(1, 5, 5, [0]), rows=torch.tensor([0, 1]))},
            "rows must have size 1 in dimension 0",
        ),
        ({"noise": noise_ring(1, 5, 5, [-1])}, r"rows\[0\] must be 0 to 4294967295, but is -1"),
        ({"noise": noise_ring(1, 5, 5, [0], capacity=6)}, "noise must have a power of two of slots, dimension 1"),
        ({"positions": torch.tensor([[3, 2**32, 0]])}, r"positions\[0, 1\] must be 0 to 4294967295, but is 4294967296"),
        ({"positions": torch.zeros(1, 2, dtype=torch.int64)}, "positions must have size 3 in dimension 1"),
    ],
)
def test_bad_input_is_named(changes, message):
    bad_call()
    with pytest.raises(InputError, match=message):
        bad_call(**changes)
