"""What the first process does to its part of a model and its cache, the others do to theirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from parallel_tape import CPU, Tape, caches_of, following, led, whole_model

from ltd.decoding.decoder import Decoder
from ltd.engine.kv_cache import KVCache
from ltd.parallel.cache import LeadingCache, LedRows
from ltd.parallel.layers import LeadingLayers
from ltd.policies import Static
from ltd.target.target import Target

Folder = Callable[[str], Path]
SIZES = (2, 3, 1, 256, 4)  # layers, sequences, heads, rows, head_dim


class Rooms:
    """In the place of layers: has caches and nothing else."""

    def open(self, batch: int, capacity: int) -> KVCache:
        layers, _, heads, _, width = SIZES
        return KVCache(layers, batch, heads, capacity, width, torch.float32, CPU)


def change(cache: LeadingCache, kind: str, numbers: random.Random, kept: list[LedRows]) -> None:
    """Does one thing to a cache, with what is drawn."""
    batch = cache.batch
    rows = sorted(numbers.sample(range(batch), numbers.randint(1, batch)))
    if kind == "keep":
        cache.keep(rows)
    elif kind == "refill":
        cache.refill(rows)
    elif kind == "copy":
        row = numbers.randrange(batch)
        kept.append(cache.copy_rows(row, numbers.randint(0, cache.host_lengths[row])))
    elif kind == "take" and kept:
        row, rows_kept = numbers.randrange(batch), numbers.choice(kept)
        cache.rewind([0 if place == row else length for place, length in enumerate(cache.host_lengths)])
        cache.take_rows(row, rows_kept, numbers.randint(0, len(rows_kept)))
    elif kind == "commit":
        gained = [numbers.randint(1, 3) for _ in range(batch)]
        path = torch.tensor([[0, *sorted(numbers.sample(range(1, 9), 2))] for _ in range(batch)], dtype=torch.int32)
        cache.commit(path, torch.tensor(gained, dtype=torch.int32))
        cache.note(gained)
    elif kind == "clear":
        cache.clear()
        cache.advance([numbers.randint(0, 40) for _ in range(cache.batch)])
    elif kind == "spread":
        cache.spread()


KINDS = st.sampled_from(["keep", "refill", "copy", "take", "commit", "clear", "spread"])


@torch.inference_mode()
@given(kinds=st.lists(KINDS, max_size=12), seed=st.integers(0, 2**31))
def test_every_change_of_a_cache_is_everybodys(kinds: list[str], seed: int) -> None:
    tape, numbers = Tape(), random.Random(seed)
    leader, follower = led(tape), following(tape)
    layers, batch, heads, capacity, width = SIZES
    rooms: Any = Rooms()
    follower.layers[7] = rooms
    kept: list[LedRows] = []
    with leader.leading():
        cache = LeadingCache(layers, batch, heads, capacity, width, torch.float32, CPU).spread_over(leader, 7)
        leader.say("result", 1, "open", None)
        follower.once("open", lambda: None)
        other = follower._caches[cache.number]
        torch.manual_seed(seed)
        for mine, its in ((cache.keys, other.keys), (cache.values, other.values)):
            its.copy_(mine.normal_())
        cache.advance([numbers.randint(0, 40) for _ in range(batch)])
        for kind in kinds:
            change(cache, kind, numbers, kept)
        leader.say("result", 2, "change", None)
    follower.once("change", lambda: None)
    assert torch.equal(other.keys, cache.keys) and torch.equal(other.values, cache.values)
    assert torch.equal(other._whole[0], cache._whole[0]) and torch.equal(other._whole[1], cache._whole[1])
    for rows in kept:
        copies = follower._rows[rows.number]
        assert torch.equal(copies.keys, rows.keys) and torch.equal(copies.values, rows.values)


def test_others_do_to_their_caches_what_the_first_process_does(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        target = Target(model, (), LeadingLayers(model, leader))
        draft = OracleDraft(whole_model(tiny_target("llama")), noise=0.5)
        decoder = Decoder(target, draft, Static(3, 12), stop_ids=[2], reuse_mib=64)
        prompts = [[5, 6, 7], list(range(20, 50)), [9] * 11]
        decoder.generate(prompts, max_new_tokens=20)
        decoder.generate(prompts[1], max_new_tokens=8, temperature=0.7, seed=1)
        leader.say("result", 1, "test", None)
    assert {"adopt", "follow", "open", "change", "forward", "commit"} <= set(tape.kinds)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    caches = caches_of(target)
    assert caches
    for number, cache in caches.items():
        torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)
        torch.testing.assert_close(follower._caches[number].values, cache.values, rtol=0, atol=0)


def test_rows_are_copied_and_taken_by_number_and_let_go(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        layers = LeadingLayers(model, leader)
        target = Target(model, (), layers)
        with target.session(2, 64) as session:
            session.prefill(0, torch.arange(3, 23))
            rows = session.cache.copy_rows(0, 15)
            session.cache.take_rows(1, rows, 12)
            session.prefill(1, torch.arange(40, 45))
        leader.say("result", 1, "test", None)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    ((number, cache),) = caches_of(target).items()
    torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)
    assert len(follower._rows) == 1
    del rows, session, cache
    target.pool.clear()
    with leader.leading():
        leader.say("result", 2, "test", None)
    follower.once("test", lambda: None)
    assert not follower._rows and not follower._caches


def test_who_goes_back_tells_the_others_with_the_next_step(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        target = Target(model, (), LeadingLayers(model, leader))
        with target.session(1, 64) as session:
            session.prefill(0, torch.arange(3, 23))
            session.cache.rewind([10])
            session.prefill(0, torch.arange(50, 55))
        leader.say("result", 1, "test", None)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    ((number, cache),) = caches_of(target).items()
    torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)
