"""Cycles as a GPU has them: parts that are recorded once and replayed at any length, and one wait."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY, small_config
from tape import CaptureError, Recorder, Tape
from transformers import AutoModelForCausalLM
from waits import WouldWaitError, device_to_wait_for

from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.engine.cpu import Engine
from ltd.policies import Both, Lookup, Policy, Static
from ltd.target.target import Target

WIDTH = 4
KINDS = ("engine", "layers")
SETTINGS = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_decoder(kind: str, family: str = "llama") -> Decoder:
    """A tiny target with a random head, on the engine or on the layers of `transformers`."""
    torch.manual_seed(0)
    config = small_config(family)
    config.num_hidden_layers = 3
    model = AutoModelForCausalLM.from_config(config).eval()
    sizes = Eagle3Config.for_target(config, draft_vocab_size=VOCABULARY)
    head = Eagle3Head(sizes).eval()
    has_engine = kind == "engine"
    target = Target(model, sizes.feature_layers, Engine(model) if has_engine else None)
    draft = Eagle3Draft(head, target.embedding, width=WIDTH, forward=HeadEngine(head) if has_engine else None)
    return Decoder(target, draft, Static(3, 12), stop_ids=[])


def taped(decoder: Decoder) -> list[Tape]:
    """Lets the requests of a decoder record on tapes, which are added to the list as they are made."""
    tapes: list[Tape] = []

    def new_tape() -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    decoder.target.captures = new_tape  # type: ignore[method-assign]
    return tapes


@pytest.fixture(scope="module", params=KINDS)
def decoders(request: pytest.FixtureRequest) -> tuple[Decoder, Decoder]:
    """Twice the same: one that calls, one that replays."""
    plain, recorded = make_decoder(request.param), make_decoder(request.param)
    taped(recorded)
    return plain, recorded


POLICIES: list[Policy] = [Static(3, 12), Static(0, 2), Both(1, 4, 8), Both(2, 6, 8, alone=0.3), Lookup(8)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@SETTINGS
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=3),
    temperature=st.sampled_from([0.0, 0.8]),
)
def test_replayed_cycles_are_called_ones(
    decoders: tuple[Decoder, Decoder], policy: Policy, seed: int, lengths: list[int], temperature: float
) -> None:
    """Recorded without a prefix, replayed behind prompts of any length, with other content and in other requests."""
    plain, recorded = decoders
    generator = torch.Generator().manual_seed(seed)
    # Few different tokens, so that the text proposes some.
    prompts = [torch.randint(3, 9, (length,), generator=generator).tolist() for length in lengths]
    options: dict[str, Any] = {"max_new_tokens": 16, "temperature": temperature, "seed": 5, "policy": policy}
    called, replayed = (decoder.generate(prompts, **options) for decoder in (plain, recorded))
    for one, other in zip(called, replayed, strict=True):
        assert one.token_ids == other.token_ids
    statistics = [answers[0].statistics for answers in (called, replayed)]
    assert statistics[0].gains == statistics[1].gains
    assert statistics[0].sizes == statistics[1].sizes and statistics[0].depths == statistics[1].depths
    assert statistics[0].sources == statistics[1].sources


def test_all_of_a_long_answer_is_replayed() -> None:
    """What was recorded once serves all lengths of the text, and the next request."""
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    for prompt in ([5, 6, 7], [8] * 100):
        decoder.generate(prompt, max_new_tokens=100)
    (tape,) = tapes
    cycles = tape.replays["verify", 12]
    assert cycles > 60 and tape.calls == []
    assert tape.replays["walk", 12] == tape.replays["commit", 12] == tape.replays["expand", 2] == cycles


def test_a_batch_that_shrinks_goes_on_without_recordings() -> None:
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    plain = make_decoder("engine")
    prompts = [[5, 6, 7], [9] * 120, [8] * 180]  # the limit ends the last first
    options: dict[str, Any] = {"max_new_tokens": 90}
    answers, expected = (each.generate(prompts, **options) for each in (decoder, plain))
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert tapes[0].replays and ("verify", 12) in tapes[0].calls


def test_what_no_graph_can_hold_is_refused() -> None:
    tensor = torch.ones(3)
    with pytest.raises(CaptureError, match="reads a value"), Recorder():
        int(tensor.sum())
    with pytest.raises(CaptureError, match="host's numbers"), Recorder():
        torch.tensor([1, 2])


def test_memory_that_a_replay_did_not_write_is_rubbish() -> None:
    given = torch.ones(2)
    tape = Tape()
    tape.record("unwritten", lambda: torch.empty(2).fill_(1.0) if tape.recordings else torch.empty(2))
    assert tape.run("unwritten", lambda: given).isnan().all()
    tape.record("written", lambda: torch.zeros(2) + given)
    given.fill_(3.0)
    assert tape.run("written", lambda: given).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [Static(3, 12), Static(0, 2)], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_cycle_of_a_fixed_policy_waits_once(kind: str, policy: Policy, temperature: float) -> None:
    decoder = make_decoder(kind)
    cycle, counts = decoder.cycle, []

    def watched(*arguments: Any) -> Any:
        before = waits.count
        with waits:
            gain = cycle(*arguments)
        counts.append(waits.count - before)
        return gain

    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 1, "policy": policy}
    expected = decoder.generate([5, 6, 7], **options).token_ids
    with device_to_wait_for() as waits, patch.object(decoder, "cycle", watched):
        assert decoder.generate([5, 6, 7], **options).token_ids == expected
    assert len(counts) > 10 and set(counts) == {1}


def test_waits_that_nobody_counts_are_refused() -> None:
    with device_to_wait_for() as waits, waits:
        with pytest.raises(WouldWaitError, match="item"):
            torch.zeros(1).item()
        with pytest.raises(WouldWaitError, match="bool"):
            bool(torch.zeros(1) > 0)
        with pytest.raises(WouldWaitError, match="the host's numbers"):
            torch.tensor([1])
