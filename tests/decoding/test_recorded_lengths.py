"""Recordings for texts of different lengths: a cycle is replayed as it would be called, on both sides of every cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from emulated import emulated_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recorded_cycles import KINDS, POLICIES, SETTINGS, make_decoder, taped

from ltd.decoding.decoder import Decoder
from ltd.engine import kv_cache
from ltd.engine.captures import CaptureReport
from ltd.engine.kv_cache import CUTS, KVCache, beliefs
from ltd.policies import Policy, Static

SHORT_CUTS = (80, 120)  # and 256, the smallest cache's capacity; recording itself takes up to 60 rows


@pytest.fixture
def short_cuts() -> Iterator[None]:
    with patch.object(kv_cache, "CUTS", SHORT_CUTS):
        yield


@pytest.fixture(scope="module", params=KINDS)
def decoders(request: pytest.FixtureRequest) -> tuple[Decoder, Decoder]:
    """Twice the same: one that calls, one that replays."""
    return make_decoder(request.param), make_decoder(request.param)


@pytest.mark.parametrize("length", range(SHORT_CUTS[1] - 3, SHORT_CUTS[1] + 3))
def test_a_text_that_begins_at_a_cut_is_replayed_from_its_first_cycle(short_cuts: None, length: int) -> None:
    """There the draft, which has read less of it, stands before the cut and the target behind it."""
    decoder = make_decoder(KINDS[0])
    tapes = taped(decoder)
    decoder.generate([3 + place % 6 for place in range(length)], max_new_tokens=12, policy=Static(2, 6))
    assert not any(part in ("verify", "begin", "expand") for tape in tapes for part, *_ in tape.calls)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(SETTINGS, max_examples=2)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(50, 125), min_size=1, max_size=2),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_replayed_cycles_are_called_ones_beyond_every_cut(
    short_cuts: None,
    decoders: tuple[Decoder, Decoder],
    policy: Policy,
    seed: int,
    lengths: list[int],
    temperature: float,
) -> None:
    """A verification that is cut for too short a text would be refused."""
    plain, recorded = decoders
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, 9, (length,), generator=generator).tolist() for length in lengths]
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 5, "policy": policy}
    called, tapes = plain.generate(prompts, **options), taped(recorded)
    replayed = recorded.generate(prompts, **options)
    assert [each.token_ids for each in called] == [each.token_ids for each in replayed]
    one, other = called[0].statistics, replayed[0].statistics
    assert (one.gains, one.sizes, one.depths, one.sources) == (other.gains, other.sizes, other.depths, other.sources)
    if len(lengths) == 1:
        assert not any(part in ("verify", "begin", "expand") for tape in tapes for part, *_ in tape.calls)


def test_a_text_grows_through_recordings_that_were_made_before_it_began(short_cuts: None) -> None:
    """What it comes through is recorded once, and no more than that."""
    decoder = make_decoder("device")
    tapes = taped(decoder)
    lengths: dict[str, list[set[int]]] = {"replayed": [], "recorded": []}
    for prompt in ([5] * 50, [5] * 70, [5] * 90, [5] * 50):
        decoder.generate(prompt, max_new_tokens=90)
        (tape,) = tapes
        for name, keys in (("replayed", tape.replays), ("recorded", tape.recordings)):
            lengths[name].append({longest for part, *_, longest in keys if part == "verify"})
        made = len(tape.recordings)
    assert tape.calls == []
    assert lengths["recorded"] == [{80, 120, 256}] * 4 == lengths["replayed"]
    assert made == len(tape.recordings)


def test_what_texts_do_not_come_to_is_not_recorded() -> None:
    decoder = make_decoder("device")
    tapes = taped(decoder)
    with patch.object(kv_cache, "CUTS", (80, 120, 240)):
        decoder.generate([5] * 85, max_new_tokens=100)
    assert {longest for part, *_, longest in tapes[0].recordings if part == "verify"} == {120, 240}


def test_longer_texts_add_what_they_need(short_cuts: None) -> None:
    decoder = make_decoder("device")
    tapes = taped(decoder)
    longest = []
    for length, new in ((150, 5), (70, 60)):
        decoder.generate([5] * length, max_new_tokens=new)
        longest.append({key[-1] for key in tapes[0].recordings if key[0] == "verify"})
    assert len(tapes) == 1 and tapes[0].calls == [] and longest == [{256}, {80, 120, 256}]


def test_once_a_capture_has_failed_nothing_more_is_recorded(short_cuts: None) -> None:
    """Over workspaces that were made before either; what was recorded over them serves on."""
    decoder, prompt = make_decoder("device"), [5] * 70
    expected = decoder.generate(prompt, max_new_tokens=60).token_ids
    tapes = taped(decoder)
    decoder.generate([5] * 150, max_new_tokens=5)
    before = set(tapes[0].recordings)
    decoder.target.capture_report = CaptureReport(failure="out of memory")
    assert decoder.generate(prompt, max_new_tokens=60).token_ids == expected
    assert len(tapes) == 1 and set(tapes[0].recordings) == before and tapes[0].replays and tapes[0].calls


@pytest.mark.parametrize("length", [58, 122])
def test_on_cuda_kernels_too_replayed_cycles_have_the_bits_of_called_ones(length: int) -> None:
    """There the cuts decide among how many blocks the keys are split, and so how sums are rounded."""
    prompt = [3 + place % 7 for place in range(length)]
    with patch.object(kv_cache, "CUTS", (64, 128)), emulated_kernels(3):
        called, replayed = ([*features_of_cycles(prompt, records)] for records in (False, True))
    assert len(called) == len(replayed) > 3
    assert all(torch.equal(one, other) for one, other in zip(called, replayed, strict=True))


def features_of_cycles(prompt: list[int], records: bool) -> Iterator[torch.Tensor]:
    """The features of every cycle's accepted nodes; the text passes a cut."""
    decoder, found = make_decoder("device"), []
    tapes, cycle = taped(decoder) if records else [], decoder.cycle

    def watched(*arguments: Any) -> Any:
        gain = cycle(*arguments)
        assert gain.features is not None
        found.append(gain.features[:, : max(gain.accepted.counts)].clone())
        return gain

    with patch.object(decoder, "cycle", watched):
        decoder.generate(prompt, max_new_tokens=8, policy=Static(1, 5))
    assert all(len({key[-1] for key in tape.replays if key[0] == "verify"}) == 2 and not tape.calls for tape in tapes)
    return iter(found)


def test_cuts_are_few_and_end_at_the_capacity() -> None:
    cache = KVCache(1, 1, 1, 100_000, 4, torch.float32, torch.device("meta"))
    believed = [0, 499, 500, 2048, 8192, 32767, 90_000]
    cuts = []
    for rows in believed:
        cache.host_lengths = [rows]
        cuts.append(cache.longest(13))
    assert cuts == [512, 512, 2048, 8192, 32768, cache.capacity, cache.capacity]
    assert beliefs(1, 131_072) == [0, *CUTS]
    assert beliefs(600, 700) == [512] and beliefs(512, 512) == [] and beliefs(100, 513) == [0, 512]
    assert beliefs(40_000, 50_000) == [CUTS[-1]]


def test_plain_decoding_has_the_cuts_of_trees_where_widths_are_one(short_cuts: None) -> None:
    """Every forward of a decoder with `least_room` is cut by one rule: how long the prefix is, and that width."""
    decoder, seen = make_decoder("engine"), {}
    policies: tuple[Any, ...] = ("none", Static(0, 2), Static(3, 12))
    taped(decoder)
    wide = Decoder(decoder.target, decoder.draft, stop_ids=[], least_room=12)
    longest = KVCache.longest

    def watched(cache: KVCache, tree_rows: int) -> int:
        cut = longest(cache, tree_rows)
        if len(cache.keys) == len(decoder.target.model.model.layers) and tree_rows == 13:
            assert seen.setdefault(max(cache.host_lengths), cut) == cut
        return cut

    with patch.object(KVCache, "longest", watched):
        for policy in policies:
            wide.generate([5] * 60, max_new_tokens=70, policy=policy)
    assert set(seen.values()) >= {80, 120, 256}
