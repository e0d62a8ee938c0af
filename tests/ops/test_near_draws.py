"""Comparing drawn tokens between devices: right up to rounding passes, anything else does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from chain_numbers import ACCEPTANCE, DRAFT, RESIDUAL, number
from near_draws import MARGIN
from noise_reference import place_noise
from op_cases import noise_ring
from random_calls import Call, random_calls
from torch import Tensor

SEED, CYCLE, POSITION = 5, 3, 40


def two_words(first: float) -> Tensor:
    """Logits (2) of a distribution that gives the first word so much."""
    return torch.tensor([math.log(first), math.log1p(-first)], dtype=torch.float64).float()


def drafted(distance: float, top_p: float = 1.0) -> Call:
    """A draw that is so far below the end of the first word's mass."""
    chance = number(SEED, CYCLE, POSITION, DRAFT)
    return Call("draft_token", [two_words(chance + distance)[None], 1.0, 0, top_p, SEED, CYCLE, POSITION])


def walked(distance: float) -> Call:
    """The first word's value is so far above the other's, at the root of a tree that has a child for that word alone;
    there the first word is certain."""
    noise = place_noise(SEED, 0, POSITION, 2)
    logits = torch.tensor([[[noise[1] - noise[0] + distance, 0.0], [9.0, -90.0]]]).float()
    tree = [torch.tensor([[1, 0]]), torch.tensor([[1, -1]]).int(), torch.tensor([[-1, -1]]).int()]
    ring = noise_ring(1, 2, SEED, [0])
    places, drawn = torch.tensor([[POSITION, POSITION + 1]]), (ring.seed, ring.noise, ring.places)
    empty = [torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, 2).long(), torch.zeros(1, dtype=torch.int32)]
    return Call("accept_sample", [logits, *tree, places, ring.rows, 1.0, 0, 1.0, *drawn, *empty])


def followed(distance: float) -> Call:
    """A drafted word, certain under the draft, that is kept by so much."""
    chance = number(SEED, CYCLE, POSITION, ACCEPTANCE)
    logits = torch.stack([two_words(chance + distance), torch.tensor([90.0, -90.0])])
    draft = torch.tensor([[90.0, -90.0]])
    return Call("accept_chain", [logits, draft, None, torch.tensor([0]), 1.0, 0, 1.0, SEED, CYCLE, POSITION])


@pytest.mark.parametrize("make", [drafted, walked, followed])
def test_only_a_draw_near_a_boundary_may_come_out_otherwise(make: Callable[[float], Call]) -> None:
    below, above = (make(sign * MARGIN / 3) for sign in (1, -1))
    results = [call.on("cpu").run() for call in (below, above)]
    assert not below.same(*results)  # the two sides of the boundary, which are both right here
    below.compare(*results)
    far = make(100 * MARGIN)
    far.compare(far.on("cpu").run(), far.on("cpu").run())
    with pytest.raises(AssertionError):
        far.compare(results[1], far.on("cpu").run())


def test_a_draw_of_the_rest_is_measured_by_the_rest() -> None:
    """Of what the target has and the draft has not: two words, and the drafted one is never kept."""
    chance = number(SEED, CYCLE, POSITION, RESIDUAL)

    def lost(distance: float) -> Call:
        target = torch.tensor([[math.log(chance + distance), math.log1p(-chance - distance), -math.inf]] * 2)
        draft = torch.tensor([[-math.inf, -math.inf, 0.0]])
        return Call("accept_chain", [target, draft, None, torch.tensor([2]), 1.0, 0, 1.0, SEED, CYCLE, POSITION])

    first, second = (lost(sign * MARGIN / 3).on("cpu").run() for sign in (1, -1))
    assert [result[0].tolist() for result in (first, second)] == [[0, 0], [0, 1]]
    lost(0.0).compare(first, second)
    with pytest.raises(AssertionError):
        lost(0.001).compare(second, lost(0.001).run())


def test_a_walk_must_go_on_as_its_own_tokens_say() -> None:
    call = walked(MARGIN / 3)
    results = call.on("cpu").run()
    path, tokens, gained = results[-3:]
    assert (path[0].tolist(), tokens[0].tolist(), gained.item()) == ([0, 1], [0, 0], 2)
    for wrong_tokens, wrong_gained, right in (([1, 0], 1, True), ([1, 0], 2, False), ([0, 0], 1, False)):
        tokens[0], gained[0] = torch.tensor(wrong_tokens), wrong_gained
        if right:
            call.compare(results, call.on("cpu").run())
        else:
            with pytest.raises(AssertionError):
                call.compare(results, call.on("cpu").run())


def test_a_token_outside_of_the_nucleus_is_wrong() -> None:
    """The first word alone is the nucleus; near its border the second belongs to it as well."""
    for distance, right in ((1e-3, False), (MARGIN / 3, True)):
        logits = two_words(0.7 + distance)[None]
        call = Call("draft_token", [logits, 1.0, 0, 0.7, *_seed_above(0.75), POSITION])
        token, chance, given = call.run()
        assert token == 0
        assert chance == 1
        other = [token + 1, torch.full_like(chance, 0.3), given]
        if right:
            call.compare(other, [token, chance, given])
        else:
            with pytest.raises(AssertionError):
                call.compare(other, [token, chance, given])


def _seed_above(bound: float) -> tuple[int, int]:
    """A seed, and the cycle, whose random number is above the bound."""
    return next((seed, CYCLE) for seed in range(1000) if number(seed, CYCLE, POSITION, DRAFT) > bound)


def test_calls_compare_with_themselves() -> None:
    """As on a GPU: results of every operator, to the last bit too."""
    for call in random_calls(1, vocabularies=(700,)):
        results = call.on("cpu").run()
        call.compare(results, call.on("cpu").run())
        call.demand_same_bits(results, call.on("cpu").run())


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_the_last_bit_counts(shape: tuple[int, ...]) -> None:
    call, zeros = Call("row_entropy", []), torch.zeros(shape)
    call.demand_same_bits([zeros, zeros / 0], [zeros.clone(), zeros / 0])
    for other in (-zeros, zeros + 1e-45):
        with pytest.raises(AssertionError, match="row_entropy"):
            call.demand_same_bits([other], [zeros])
