"""Cycles as a GPU has them: parts that are recorded once and replayed at any length, and one wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launches import Launches
from small_models import VOCABULARY, small_config
from tape import CaptureError, Recorder, Tape
from transformers import AutoModelForCausalLM
from waits import WouldWaitError, device_to_wait_for, waits_of_cycles

from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.device import HeadDeviceEngine
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.engine import HeadEngine
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.engine.cpu import Engine
from ltd.engine.device import DeviceEngine
from ltd.engine.forward import Verified
from ltd.policies import Both, Learned, Lookup, Policy, Static
from ltd.policies.base import FixedSize
from ltd.policies.learned import asking
from ltd.policies.learned.asking import Asker
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.target.target import Target, TargetSession
from ltd.tree import NOT_ASKED, DraftTree, TreeNodes

WIDTH = 4
LADDER = (2, 4, 8)
KINDS = ("engine", "layers", "device")
SETTINGS = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_decoder(kind: str, family: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Decoder:
    """A tiny target with a random head: on the CPU's engine, the layers of `transformers`, or a GPU's forwards."""
    torch.manual_seed(0)
    config = small_config(family)
    config.num_hidden_layers = 3
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    sizes = Eagle3Config.for_target(config, draft_vocab_size=VOCABULARY)
    head = Eagle3Head(sizes).eval().to(dtype)
    forwards: dict[str, tuple[Any, Any]] = {"engine": (Engine, HeadEngine), "device": (DeviceEngine, HeadDeviceEngine)}
    of_target, of_head = forwards.get(kind, (None, None))
    target = Target(model, sizes.feature_layers, None if of_target is None else of_target(model))
    draft = Eagle3Draft(head, target.embedding, width=WIDTH, forward=None if of_head is None else of_head(head))
    return Decoder(target, draft, Static(3, 12), stop_ids=[], **options)


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
    cycles = tape.replayed("verify", 12)
    assert cycles > 60 and tape.calls == []
    assert all(tape.replayed(*part) == cycles for part in (("walk", 12), ("commit", 12), ("expand", 2)))


def test_a_sampled_request_replays_what_another_seed_recorded() -> None:
    """A seed lies in memory; a temperature, top-k and top-p are numbers of a recording, so others record anew."""
    decoder, plain = make_decoder("engine"), make_decoder("engine")
    tapes = taped(decoder)
    sampled: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0.8}
    for seed in (5, 6, 5):
        answer = decoder.generate([5, 6, 7], **sampled, seed=seed)
        assert answer.token_ids == plain.generate([5, 6, 7], **sampled, seed=seed).token_ids
    assert len(tapes) == 1 and tapes[0].calls == []
    for number, other in enumerate(({"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.9}, {"temperature": 0.0}), start=2):
        options = {**sampled, **other, **({} if other == {"temperature": 0.0} else {"seed": 5})}
        answer = decoder.generate([5, 6, 7], **options)
        assert answer.token_ids == plain.generate([5, 6, 7], **options).token_ids and len(tapes) == number


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
    waits, _ = waits_per_cycle(make_decoder(kind), policy, temperature)
    assert len(waits) > 10 and set(waits) == {1}


@dataclass(slots=True)
class Sometimes(FixedSize):
    """Drafts in every third cycle."""

    size: int = 12
    max_depth: int = 2
    cycle: int = 0

    def start(self, batch: int) -> Sometimes:
        self.cycle = 0
        return self

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        self.cycle += 1
        return self.cycle % 3 == 0

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return depth < self.max_depth


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_draft_has_not_read_is_kept_without_waiting(kind: str) -> None:
    waits, depths = waits_per_cycle(make_decoder(kind), Sometimes(), 0.0)
    assert set(depths) == {NOT_ASKED, 2} and set(waits) == {1}


def test_a_workspace_keeps_nothing_of_the_last_tree() -> None:
    """A request that ends with the prefill has no candidates of any source, in used memory as in new."""
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    prompt, policy = [5, 6, 7] * 6, Both(1, 4, 8)
    assert decoder.generate(prompt, max_new_tokens=12, policy=policy).statistics.sources
    assert decoder.generate(prompt, max_new_tokens=1, policy=policy).statistics.sources == {}
    assert len(tapes) == 1


def test_recording_is_done_in_turn() -> None:
    """Threads that share a target would launch in the middle of a capture."""
    decoder, held = make_decoder("engine"), []
    captures = decoder.target.captures

    def watched() -> Any:
        other = threading.Thread(target=lambda: held.append(not decoder.target.turn._lock.acquire(blocking=False)))
        other.start()
        other.join()
        return captures()

    with patch.object(decoder.target, "captures", watched):
        decoder.generate([5, 6, 7], max_new_tokens=4)
    assert held == [True]


def test_a_learned_policy_waits_for_each_answer() -> None:
    """Once at every level, for the answer that the last kernel of that level wrote, and once at the end."""
    layout = Summary(best=5, newest=2, states=32)
    networks = [
        Network(layout, (torch.randn(outputs, layout.width), torch.zeros(outputs))) for outputs in (2, len(LADDER))
    ]
    policy = Learned(Setting(WIDTH), 4, LADDER, *networks)

    def on_a_device(*arguments: Any) -> Asker:
        return asking._operator_asker(*arguments, 1)

    with patch.object(asking, "_direct_asker", on_a_device):
        waits, depths = waits_per_cycle(make_decoder("engine"), policy, 0.0)
    assert len(set(depths)) > 1
    assert waits == [1 + (depth + 1) for depth in depths]


def waits_per_cycle(decoder: Decoder, policy: Policy, temperature: float) -> tuple[list[int], list[int]]:
    """How often the host waits for the device in every cycle of an answer, and the depths that were chosen."""
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 1, "policy": policy}
    expected = decoder.generate([5, 6, 7], **options).token_ids
    with waits_of_cycles(decoder) as counts:
        answer = decoder.generate([5, 6, 7], **options)
    assert answer.token_ids == expected
    return counts, answer.statistics.depths


@pytest.mark.parametrize(("depth", "size"), [(3, 12), (8, 60)])
def test_what_a_cycle_launches_and_allocates(depth: int, size: int) -> None:
    """Upper bounds: what more is launched or allocated in a cycle than today is a step back."""
    called, recorded = make_decoder("engine"), make_decoder("engine")
    taped(recorded)
    for decoder, most in ((called, (16 + 5 * depth, 9 + 3 * depth)), (recorded, (3, 0))):
        for launches, allocations in launches_per_cycle(decoder, Static(depth, size)):
            assert launches <= most[0] and allocations <= most[1]


def launches_per_cycle(decoder: Decoder, policy: Policy) -> list[tuple[int, int]]:
    """Launches and allocations of every cycle of an answer, those within replays left out."""
    cycle, counts = decoder.cycle, []

    def counted(*arguments: Any) -> Any:
        with Launches() as launches:
            gain = cycle(*arguments)
        counts.append((launches.launches, launches.allocations))
        return gain

    with patch.object(decoder, "cycle", counted):
        decoder.generate([5, 6, 7], max_new_tokens=12, policy=policy)
    return counts


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_all_forwards_of_a_decoder_can_have_one_width(temperature: float) -> None:
    """Plain decoding too; what fills the room is on no path."""
    decoder, plain = make_decoder("engine"), make_decoder("engine")
    wide = Decoder(decoder.target, decoder.draft, stop_ids=[], least_room=12)
    verify, widths = TargetSession.verify, set()

    def watched(session: TargetSession, nodes: TreeNodes) -> Verified:
        widths.add(nodes.tokens.shape[1])
        return verify(session, nodes)

    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 1}
    expected = plain.generate([5, 6, 7], **options, policy="none").token_ids
    choices: list[tuple[Any, int]] = [("none", 0), (Static(0, 2), 2), (Static(3, 12), 12)]
    with patch.object(TargetSession, "verify", watched):
        for policy, size in choices:
            answer = wide.generate([5, 6, 7], **options, policy=policy)
            assert answer.token_ids == expected and set(answer.statistics.sizes) == {size}
    assert widths == {13}


def test_waits_that_nobody_counts_are_refused() -> None:
    with device_to_wait_for() as waits, waits:
        with pytest.raises(WouldWaitError, match="item"):
            torch.zeros(1).item()
        with pytest.raises(WouldWaitError, match="bool"):
            bool(torch.zeros(1) > 0)
        with pytest.raises(WouldWaitError, match="the host's numbers"):
            torch.tensor([1])
        for index in ([0], (slice(None), [0])):
            with pytest.raises(WouldWaitError, match="a list as an index"):
                torch.zeros(1, 1)[index]
        with pytest.raises(WouldWaitError, match="a mask"):
            torch.zeros(1)[torch.zeros(1) > 0] = 1
