"""Batches that sequences leave: copies of the others take their places, and what was recorded is replayed for them."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY
from test_recorded_cycles import KINDS, POLICIES, SETTINGS, Sometimes, make_decoder, taped
from waits import waits_of_cycles

from ltd.decoding import request
from ltd.decoding.decoder import Decoder
from ltd.engine import kv_cache
from ltd.engine.kv_cache import KVCache, refilled
from ltd.policies import Policy, Static

PROMPTS = [[5, 6, 7], [9] * 120, [8] * 180]  # the limit ends the last first
OPTIONS: dict[str, Any] = {"max_new_tokens": 90}


@pytest.fixture(scope="module", params=KINDS)
def decoders(request: pytest.FixtureRequest) -> tuple[Decoder, Decoder]:
    """Twice the same: one that calls, one that replays."""
    return make_decoder(request.param), make_decoder(request.param)


@pytest.mark.parametrize("policy", [*POLICIES, Sometimes()], ids=str)
@settings(SETTINGS, max_examples=3)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    stops=st.sets(st.integers(0, VOCABULARY - 1), max_size=8),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_every_answer_is_that_of_a_called_batch(
    decoders: tuple[Decoder, Decoder],
    policy: Policy,
    seed: int,
    lengths: list[int],
    stops: set[int],
    temperature: float,
) -> None:
    plain, recorded = decoders
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, 9, (length,), generator=generator).tolist() for length in lengths]
    options: dict[str, Any] = {"max_new_tokens": 24, "stop_token_ids": sorted(stops), "policy": policy}
    options |= {"temperature": temperature, "seed": seed}
    called, tapes = plain.generate(prompts, **options), taped(recorded)
    replayed = recorded.generate(prompts, **options)
    assert [answer.token_ids for answer in replayed] == [answer.token_ids for answer in called]
    one, other = called[0].statistics, replayed[0].statistics
    if isinstance(policy, (Static, Sometimes)):  # what others decide depends on all rows of the batch
        assert (other.gains, other.depths, other.sizes) == (one.gains, one.depths, one.sizes)
    assert not any(part in ("verify", "walk", "commit", "expand") for tape in tapes for part, *_ in tape.calls)


def test_the_next_batch_finds_the_recordings() -> None:
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    first, second = (decoder.generate(PROMPTS, **OPTIONS) for _ in range(2))
    assert [answer.token_ids for answer in first] == [answer.token_ids for answer in second]
    assert len({len(answer.token_ids) for answer in first}) > 1 and len(tapes) == 1 and tapes[0].calls == []


def test_a_batch_with_few_left_goes_on_without_recordings() -> None:
    """Where its copies would be more than its sequences, and not cheap."""
    decoder, plain = make_decoder("engine"), make_decoder("engine")
    tapes = taped(decoder)
    with patch.object(request, "CHEAP_ROWS", 38):  # a batch of three has 3 * 13 rows
        answers = decoder.generate(PROMPTS, **OPTIONS)
    expected = plain.generate(PROMPTS, **OPTIONS)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert tapes[0].replays and ("verify", 12, 512) in tapes[0].calls


def test_what_is_left_of_a_batch_is_replayed_where_its_longest_sequence_has_gone() -> None:
    """What is left then is shorter than what the longest began with, so attention takes fewer blocks."""
    decoder, plain = make_decoder("device"), make_decoder("device")
    tapes = taped(decoder)
    with patch.object(kv_cache, "CUTS", (64, 128)):
        answers = decoder.generate([PROMPTS[0], PROMPTS[2]], **OPTIONS)
        expected = plain.generate([PROMPTS[0], PROMPTS[2]], **OPTIONS)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    lengths = [len(answer.token_ids) for answer in answers]
    assert lengths[1] < lengths[0] < 100 and len(tapes) == 1 and tapes[0].calls == []
    assert {longest for part, *_, longest in tapes[0].replays if part == "verify"} == {128, 512}


def test_waits_are_one_a_cycle_whoever_leaves() -> None:
    decoder = make_decoder("device")
    expected = [answer.token_ids for answer in decoder.generate(PROMPTS, **OPTIONS)]

    taped(decoder)
    with waits_of_cycles(decoder) as counts:
        answers = decoder.generate(PROMPTS, **OPTIONS)
    assert [answer.token_ids for answer in answers] == expected
    assert len(counts) > 30 and set(counts) == {1}


@pytest.mark.parametrize("rows", [[0], [3], [1, 2], [0, 2, 3], [0, 1, 2, 3]])
def test_places_are_refilled_in_turn(rows: list[int]) -> None:
    cache = KVCache(2, 4, 1, 256, 4, torch.float32, torch.device("cpu"))
    cache.set_lengths([3, 1, 4, 2])
    cache.keys.copy_(torch.arange(4.0)[:, None, None, None].expand_as(cache.keys))
    cache.values.copy_(cache.keys + 10)
    places, keys = refilled(rows, 4), cache.keys[..., :4, :].clone()
    cache.refill(rows)
    assert places == [rows[place % len(rows)] for place in range(4)]
    assert cache.lengths.tolist() == cache.host_lengths == [[3, 1, 4, 2][row] for row in places]
    assert torch.equal(cache.keys[..., :4, :], keys[:, places])
    assert torch.equal(cache.values[..., :4, :], keys[:, places] + 10)
