"""Which sizes are recorded, and how often: no more is verified than was asked for, and nothing is recorded twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tape import Tape
from test_recorded_cycles import LADDER, WIDTH, make_decoder, taped

from ltd.decoding import workspace
from ltd.decoding.workspace import recorded_sizes
from ltd.drafts.base import RecordedDraftSession
from ltd.errors import InputError
from ltd.latency.cycle_bench import CycleBench, OrderedSize, Plan
from ltd.policies import Both, Learned, Lookup, Policy, Static
from ltd.policies.at_width import AtWidth
from ltd.policies.base import check_policy
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting


@dataclass
class Free:
    """A policy that names no sizes."""

    max_size: int
    max_depth: int = 3

    def start(self, batch: int) -> Any:
        raise NotImplementedError


def learned() -> Learned:
    layout = Summary(best=5, newest=2)
    network = Network(layout, (torch.zeros(len(LADDER), layout.width), torch.zeros(len(LADDER))))
    return Learned(Setting(WIDTH), 4, LADDER, size_network=network)


SIZES_OF: list[tuple[Policy | None, tuple[int, ...]]] = [
    (None, (0,)),
    (Static(3, 12), (0, 12)),
    (learned(), (0, *LADDER)),
    (Free(100), (0, 4, 8, 16, 24, 32, 48, 60, 100)),
    (Free(20), (0, 4, 8, 16, 20)),
    (OrderedSize(4, 240, max_text=0, sizes=(0, 64, 128, 240)), (0, 64, 128, 240)),
    (OrderedSize(4, 64, sizes=(0, 6, 64)), (0, 4, 6, 8, 16, 24, 32, 48, 60, 64)),
    (AtWidth(OrderedSize(4, 64, max_text=0, sizes=(0, 6, 64)), 3), (0, 6, 64)),
    (AtWidth(Free(20), 3), (0, 4, 8, 16, 20)),
    (Lookup(8), (0, 4, 8)),
]


@pytest.mark.parametrize(("policy", "sizes"), SIZES_OF, ids=str)
def test_verifications_are_recorded_for_the_sizes_of_a_policy(policy: Policy | None, sizes: tuple[int, ...]) -> None:
    assert recorded_sizes(policy) == sizes


def verifications(tapes: list[Tape]) -> set[int]:
    """The sizes of all verifications, none of which may have been called instead of replayed."""
    assert not any(call[0] == "verify" for tape in tapes for call in tape.calls)
    return {size for tape in tapes for part, size, *_ in tape.replays if part == "verify"}


@torch.inference_mode()
def test_calibration_verifies_the_sizes_that_it_says() -> None:
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    bench = CycleBench(decoder, Plan(lengths=(20,), sizes=(0, 5, 20, 37), gains=(1,), depth=3))
    for time_point in bench.points():
        list(time_point())
    assert verifications(tapes) == {0, 5, 20, 37}


def test_policies_in_turn_and_texts_that_grow_record_once() -> None:
    """Every kind of request finds its recordings again, with room for texts that are longer than the first."""
    decoder = make_decoder("engine")
    tapes = taped(decoder)
    policies: list[Policy] = [Static(3, 12), Static(1, 4), Both(1, 4, 8), Lookup(8)]
    for length in (70, 74, 78):
        for policy in policies:
            decoder.generate([5] * length, max_new_tokens=4, policy=policy)
    assert len(tapes) == len(policies)


def test_what_is_not_recorded_has_the_rows_that_it_needs() -> None:
    decoder = make_decoder("engine")
    with patch.object(decoder.target, "session", wraps=decoder.target.session) as opened:
        decoder.generate([5] * 70, max_new_tokens=5, policy=Static(3, 12))
        taped(decoder)
        decoder.generate([5] * 70, max_new_tokens=5, policy=Static(3, 12))
    plain, recorded = (call.args[1] for call in opened.call_args_list)
    assert (plain, recorded) == (70 + 5 + 17 + 16, 128)


def test_cycles_do_not_look_at_the_kind_of_a_draft_again() -> None:
    decoder, looks = make_decoder("engine"), 0

    class Counting(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            nonlocal looks
            looks += 1
            return isinstance(instance, RecordedDraftSession)

    class Counted(metaclass=Counting):
        """In the place of `RecordedDraftSession`."""

    taped(decoder)
    decoder.generate([5, 6, 7], max_new_tokens=40)
    counts = []
    with patch.object(workspace, "RecordedDraftSession", Counted):
        for new_tokens in (2, 40):
            looks = 0
            decoder.generate([5, 6, 7], max_new_tokens=new_tokens)
            counts.append(looks)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("sizes", [None, 5, "4,8", {4: 8}, (4.0,), (-1,), (True,)])
def test_sizes_that_are_something_else_are_refused(sizes: Any) -> None:
    policy = Free(8)
    policy.sizes = sizes  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the policy's sizes are"):
        check_policy(policy, "a policy")
    check_policy(Free(8), "a policy")
