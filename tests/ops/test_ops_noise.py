"""place_noise, and the noise that accept_sample and expand_beam keep, against NumPy in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_reference import NOISE_ERROR, gumbel, philox_words, place_noise
from op_cases import DTYPES, BeamBuffers, NodeBuffers, every_cpu_kernel, every_kernel, noise_ring, strided
from operator_reference import ListTree, philox4x32_10, select_nodes
from torch import Tensor

from ltd import ops
from ltd.errors import InputError

WORDS = st.integers(0, 2**32 - 1)
SEEDS = st.integers(-(2**63), 2**63 - 1)


def test_the_reference_is_philox() -> None:
    seed, low32 = -123456789, 2**32 - 1
    words = [philox4x32_10((7, 2**32 - 1, block, 4), (seed & low32, (seed >> 32) & low32)) for block in range(3)]
    assert philox_words(seed, 2**32 - 1, 7, 10).tolist() == list(itertools.chain(*words))[:10]


@settings(max_examples=60)
@given(
    seed=SEEDS,
    row=WORDS,
    position=WORDS,
    vocabulary=st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 127, 4095, 4096, 4097, 20_001]),
)
def test_noise(seed: int, row: int, position: int, vocabulary: int) -> None:
    wanted = place_noise(seed, row, position, vocabulary)
    first = ops.place_noise(seed, row, position, vocabulary)
    for kernel in every_kernel():
        made = ops.place_noise(seed, row, position, vocabulary)
        assert made.dtype == torch.float32
        assert np.abs(made.double().numpy() - wanted).max() <= NOISE_ERROR, kernel
        assert torch.equal(made, first), kernel  # to the last bit


@pytest.mark.parametrize("vocabulary", [152_064, 262_144])
def test_noise_of_the_largest_vocabularies(vocabulary: int) -> None:
    wanted = place_noise(5, 1, 77, vocabulary)
    for _ in every_kernel():
        assert np.abs(ops.place_noise(5, 1, 77, vocabulary).double().numpy() - wanted).max() <= NOISE_ERROR


def test_noise_has_gumbels_moments() -> None:
    """Mean Euler's constant, variance pi² / 6, and neighbours that know nothing of each other."""
    noise = torch.cat([ops.place_noise(1, 0, position, 50_000) for position in range(20)]).double()
    assert noise.mean().item() == pytest.approx(0.5772157, abs=0.006)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.01)
    for apart in (1, 2, 3, 4, 50_000):
        pairs = torch.stack([noise[apart:], noise[:-apart]])
        assert abs(torch.corrcoef(pairs)[0, 1].item()) < 0.005


def test_the_largest_noise_is_below_what_kernels_skip_by() -> None:
    assert gumbel(np.array([0])).item() + NOISE_ERROR < 22.875


def test_places_differ() -> None:
    noise = ops.place_noise(1, 2, 3, 64)
    for seed, row, position in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1 + 2**32, 2, 3)):
        assert not torch.equal(noise, ops.place_noise(seed, row, position, 64))
    assert torch.equal(noise[:7], ops.place_noise(torch.tensor([1]), 2, 3, 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, -1, 0, 5), "row must be 0 to 4294967295, but is -1"),
        ((1, 2**32, 0, 5), "row must be 0 to 4294967295, but is 4294967296"),
        ((1, 0, -1, 5), "position must be 0 to 4294967295, but is -1"),
        ((1, 0, 2**32, 5), "position must be 0 to 4294967295, but is 4294967296"),
        ((1, 0, 0, 0), "vocabulary must be 1 to"),
        ((1, 0, 0, 2**31), "vocabulary must be 1 to"),
        ((torch.zeros(2, dtype=torch.int64), 0, 0, 5), "seed must have size 1 in dimension 0"),
        ((torch.zeros(1), 0, 0, 5), "seed must be of type Long"),
    ],
)
def test_bad_places_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.place_noise(*arguments)


# --- the ring ---


def held_noise(noise: ops.Noise) -> list[tuple[int, int]]:
    """Batch row and position of what the ring holds, which is checked."""
    held = []
    for b, places in enumerate(noise.places.tolist()):
        for slot, position in enumerate(places):
            if position < 0:
                continue
            assert position % len(places) == slot
            wanted = ops.place_noise(noise.seed, int(noise.rows[b]), position, noise.noise.shape[2])
            assert torch.equal(noise.noise[b, slot], wanted)
            held.append((b, position))
    return held


def walked(noise: ops.Noise, logits: Tensor, tree: NodeBuffers, temperature: float = 1.0) -> list[list[int]]:
    """The tokens gained, per sequence."""
    batch, nodes = tree.node_tokens.shape
    path, tokens = torch.zeros(batch, nodes, dtype=torch.int32), torch.zeros(batch, nodes, dtype=torch.int64)
    gained = torch.zeros(batch, dtype=torch.int32)
    links = tree.node_tokens, tree.first_child, tree.next_sibling
    ops.accept_sample(logits, *links, tree.positions, temperature, 0, 1.0, noise, path, tokens, gained)
    return [row[:count] for row, count in zip(tokens.tolist(), gained.tolist(), strict=True)]


def sampled_chain(batch: int, depth: int, vocabulary: int, lengths: list[int]) -> tuple[Tensor, NodeBuffers]:
    """Logits, and chains of the tokens that are sampled from them with seed 9 and the rows' numbers."""
    logits = torch.randn(batch, depth + 1, vocabulary, generator=torch.Generator().manual_seed(depth))
    rows = []
    for b in range(batch):
        places = [place_noise(9, b, lengths[b] + d, vocabulary) for d in range(depth)]
        tokens = [int((logits[b, d].double().numpy() + places[d]).argmax()) for d in range(depth)]
        rows.append(select_nodes(tokens, [-float(d) for d in range(depth)], list(range(-1, depth - 1)), depth, 0))
    return logits, NodeBuffers.filled(rows, lengths)


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 32])
def test_any_number_of_slots_gives_the_same_text(slots: int) -> None:
    """Chains of eight tokens that are all right; with fewer slots than nodes noise is made more often."""
    lengths = [2**32 - 9, 5, 1000]
    logits, tree = sampled_chain(3, 8, 300, lengths)
    for _ in every_kernel():
        noise = noise_ring(3, 300, 9, [0, 1, 2], slots)
        for _ in range(2):
            for b, tokens in enumerate(walked(noise, logits, tree)):
                assert tokens[:8] == tree.node_tokens[b, 1:].tolist()
                assert len(tokens) == 9
            held = held_noise(noise)
            assert len(held) == 3 * min(slots, 9)
            assert all(0 <= position - lengths[b] < 9 for b, position in held)


def test_what_a_slot_holds_is_used_as_it_is() -> None:
    """Of equal values the smaller id wins: told by noise that a test has written."""
    logits, tree = torch.tensor([[[1.0, 3.0, -math.inf, 3.0, 3.0]]]), NodeBuffers.filled([no_children()], [6])
    for _ in every_kernel():
        for lifted, wanted in ((None, 1), (0, 0), (2, 1), (3, 3), (4, 4)):
            noise = noise_ring(1, 5, 1, [0], 4)
            noise.places[0, 2] = 6
            if lifted is not None:
                noise.noise[0, 2, lifted] = 2.5
            assert walked(noise, logits, tree) == [[wanted]]


def no_children():
    return select_nodes([], [], [], 0, root=0)


def test_a_ring_starts_anew_and_keeps_rows() -> None:
    logits, tree = sampled_chain(2, 3, 50, [4, 7])
    noise = ops.Noise.new(2, 50, [5, 6], "cpu", 8)
    assert noise.noise.shape == (2, 8, 50)
    before = walked(noise, logits, tree)
    noise.restart(9, [0, 1])
    assert not held_noise(noise)
    assert [tokens[:3] for tokens in walked(noise, logits, tree)] == tree.node_tokens[:, 1:].tolist()
    second = noise.keep([1])
    assert second.noise.data_ptr() == noise.noise.data_ptr()
    assert second.rows.tolist() == [1]
    last = NodeBuffers(*(tensor[1:] for tensor in tree.arguments()))
    assert walked(second, logits[1:], last)[0][:3] == tree.node_tokens[1, 1:].tolist()
    assert held_noise(second)
    noise.restart(0, [5, 6])
    assert walked(noise, logits, tree) == before


def test_a_ring_takes_a_row_per_sequence_and_seeds_of_64_bits() -> None:
    with pytest.raises(InputError, match="Noise: rows must be 2 numbers, one per sequence, but are 1"):
        ops.Noise.new(2, 50, [0], "cpu", 8)
    noise = ops.Noise.new(2, 50, [5, 6], "cpu", 8)
    for rows in ([], [7], [1, 2, 3]):
        with pytest.raises(InputError, match=f"one per sequence, but are {len(rows)}"):
            noise.restart(9, rows)
    for seed in (2**63, -(2**63) - 1):
        with pytest.raises(InputError, match=rf"Noise: seed must be -2\^63 to 2\^63 - 1, but is {seed}"):
            noise.restart(seed, [1, 2])
    assert (noise.seed.tolist(), noise.rows.tolist()) == ([0], [5, 6])
    for seed in (2**63 - 1, -(2**63)):
        noise.restart(seed, [1, 2])
        assert noise.seed.tolist() == [seed]


def test_an_empty_batch_and_strided_rings() -> None:
    logits, tree = sampled_chain(2, 3, 50, [4, 7])
    nobody = NodeBuffers(*(tensor[:0] for tensor in tree.arguments()))
    for _ in every_kernel():
        assert walked(noise_ring(0, 50, 9, [], 4), logits[:0], nobody) == []
        noise = noise_ring(2, 50, 9, [0, 1], 4)
        roomy = ops.Noise(strided(noise.noise), strided(noise.places), noise.rows, noise.seed)
        assert [tokens[:3] for tokens in walked(roomy, logits, tree)] == tree.node_tokens[:, 1:].tolist()
        assert len(held_noise(roomy)) == 8


def test_tokens_of_many_seeds_have_the_targets_distribution() -> None:
    """Chi-square over seeds at one place; one vocabulary has several vectors, and skips chunks."""
    for vocabulary, scale, draws in ((7, 1.0, 6000), (40, 2.0, 8000)):
        logits = scale * torch.randn(1, 1, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
        tree, counts = NodeBuffers.filled([no_children()], [3]), np.zeros(vocabulary)
        noise = noise_ring(1, vocabulary, 0, [0], 1)
        for seed in range(draws):
            noise.restart(seed, [0])
            counts[walked(noise, logits, tree, 0.9)[0][0]] += 1
        expected = draws * torch.softmax(logits[0, 0].double() / 0.9, dim=0).numpy()
        statistic = ((counts - expected) ** 2 / expected).sum()
        freedom = vocabulary - 1
        assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 8


# --- drafting with noise ---


@settings(max_examples=40)
@given(
    vocabulary=st.sampled_from([5, 17, 100, 1030]),
    width=st.integers(1, 5),
    mapped=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    sharpness=st.sampled_from([0.5, 1.0, 1.7]),
    slots=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**31),
)
def test_drafted_levels(vocabulary, width, mapped, dtype, temperature, sharpness, slots, seed) -> None:
    """Three levels with noise are what the values logit / temperature + noise, sharpened for scores, would give."""
    generator, batch, target = torch.Generator().manual_seed(seed), 2, 2 * vocabulary
    levels = [
        (2 * torch.randn(batch, width if level else 1, vocabulary, generator=generator)).to(dtype) for level in range(3)
    ]
    words = torch.randperm(target, generator=generator)[:vocabulary].sort().values if mapped else None
    d2t = None if words is None else words - torch.arange(vocabulary)
    lengths = torch.randint(0, 500, (batch,), generator=generator).int()
    rows = [3, 8]
    for kernel in every_kernel():
        noise, buffers = noise_ring(batch, target, seed, rows, slots), BeamBuffers.new(batch, width, 3)
        for level, logits in enumerate(levels):
            ops.expand_beam(logits, d2t, level, *buffers.arguments(), noise, lengths, temperature, sharpness)
        assert len(held_noise(noise)) == batch * min(slots, 3)
        for b in range(batch):
            check_drafted(b, buffers, levels, words, lengths, rows, seed, temperature, sharpness, kernel)


def check_drafted(b, buffers, levels, words, lengths, rows, seed, temperature, sharpness, kernel) -> None:
    width, first = buffers.beam_rows.shape[1], 0
    for level, logits in enumerate(levels):
        vocabulary = logits.shape[2]
        ids = np.arange(vocabulary) if words is None else words.numpy()
        noise = place_noise(seed, rows[b], int(lengths[b]) + level, 2 * vocabulary)[ids]
        for row in range(logits.shape[1]):
            values = logits[b, row].double().numpy() / temperature + noise
            shares = sharpness * values
            chances = shares - shares.max() - math.log(np.exp(shares - shares.max()).sum())
            parent = -1 if level == 0 else int(buffers.beam_nodes[b, level - 1, row])
            above = 0.0 if level == 0 else float(buffers.scores[b, parent])
            own = slice(first + row * width, first + (row + 1) * width)
            places = np.searchsorted(ids, buffers.tokens[b, own].numpy())
            assert np.array_equal(ids[places], buffers.tokens[b, own].numpy()), kernel
            assert len(set(places.tolist())) == width
            # Best first, and none left out that is better.
            assert np.all(np.diff(values[places]) <= 1e-5)
            assert values[places[-1]] >= np.sort(values)[-width] - 1e-5
            np.testing.assert_allclose(buffers.scores[b, own].numpy(), above + chances[places], atol=1e-4, rtol=1e-5)
            assert (buffers.scores[b, own] <= above).all()
            assert (buffers.parents[b, own] == parent).all()
        first += logits.shape[1] * width


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_and_sharpness_without_noise(temperature: float) -> None:
    torch.manual_seed(4)
    levels = [torch.randn(1, 3 if level else 1, 40) for level in range(2)]
    for _ in every_kernel():
        buffers, tree = BeamBuffers.new(1, 3, 2), ListTree(3)
        for level, logits in enumerate(levels):
            given = buffers.arguments()
            ops.expand_beam(logits, None, level, *given, temperature=temperature, sharpness=1.5)
            tree.expand((1.5 / temperature * logits[0]).numpy(), None)
        assert buffers.tokens[0].tolist() == tree.tokens
        np.testing.assert_allclose(buffers.scores[0].numpy(), tree.scores, atol=1e-5)


def test_tokens_outside_of_the_noise_come_last() -> None:
    """A draft id of a larger vocabulary than the target's; NaN and infinite logits, which have no value either."""
    logits = torch.tensor([[[9.0, math.nan, -math.inf, 0.0, 1.0, 8.0]]])
    d2t = torch.tensor([2**62, 0, 0, 0, 0, -6])
    for _ in every_kernel():
        noise, buffers = noise_ring(1, 5, 1, [0], 2), BeamBuffers.new(1, 3, 1)
        ops.expand_beam(logits, d2t, 0, *buffers.arguments(), noise, torch.zeros(1).int())
        assert set(buffers.tokens[0, :2].tolist()) == {3, 4}
        assert buffers.scores[0, 2] == -math.inf


def drafting(**changes: object) -> None:
    """An expansion with noise, with arguments changed."""
    ring = noise_ring(2, 12, 1, [0, 1], 4)
    given = {"noise": ring, "lengths": torch.tensor([3, 0], dtype=torch.int32), "temperature": 0.8, "sharpness": 1.2}
    ops.expand_beam(torch.zeros(2, 1, 9), None, 0, *BeamBuffers.new(2, 3, 1).arguments(), **(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": None}, "noise, places, rows, seed and lengths must be given together, but only 1 of them are"),
        ({"lengths": None}, "must be given together, but only 4 of them are"),
        ({"lengths": torch.tensor([3, -1], dtype=torch.int32)}, r"lengths\[1\] must be 0 or more, but is -1"),
        ({"lengths": torch.tensor([3, 1])}, "lengths must be of type Int"),
        ({"lengths": torch.zeros(3, dtype=torch.int32)}, "lengths must have size 2 in dimension 0"),
        ({"temperature": 0.0}, "temperature must be 1e-30 to 1e.30, but is 0"),
        ({"temperature": math.nan}, "temperature must be 1e-30 to 1e.30, but is nan"),
        ({"sharpness": -1.0}, "sharpness must be 1e-30 to 1e.30, but is -1"),
        ({"sharpness": math.inf}, "sharpness must be 1e-30 to 1e.30, but is inf"),
        ({"noise": noise_ring(1, 12, 1, [0])}, "noise must have size 2 in dimension 0"),
        ({"noise": noise_ring(2, 12, 1, [0, 1], 3)}, "noise must have a power of two of slots, dimension 1"),
        ({"noise": noise_ring(2, 12, 1, [0, 2**32])}, r"rows\[1\] must be 0 to 4294967295, but is 4294967296"),
    ],
)
def test_bad_noise_is_named(changes: dict, message: str) -> None:
    drafting()
    with pytest.raises(InputError, match=message):
        drafting(**changes)


def test_a_draft_that_is_the_target_proposes_what_is_sampled() -> None:
    """The best child of every level is the token that the target samples from the same logits."""
    torch.manual_seed(2)
    for _ in every_cpu_kernel():
        for length in range(20):
            logits = torch.randn(1, 1, 500)
            noise, buffers = noise_ring(1, 500, 6, [0], 4), BeamBuffers.new(1, 4, 1)
            ops.expand_beam(logits, None, 0, *buffers.arguments(), noise, torch.tensor([length]).int(), 0.7)
            tree = NodeBuffers.filled([no_children()], [length])
            assert walked(noise, logits, tree, 0.7) == [[int(buffers.tokens[0, 0])]]
