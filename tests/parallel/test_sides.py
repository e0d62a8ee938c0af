"""What all processes do together: they hear the same, return the same and raise the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from parallel_tape import CPU, Tape, following, led, whole_model

from ltd.decoding.in_parallel import ParallelDecoder
from ltd.errors import InputError
from ltd.loading import load
from ltd.parallel.layers import LeadingLayers
from ltd.parallel.peers import FIRST_PART, Peers
from ltd.policies import Static
from ltd.target.target import Target

Folder = Callable[[str], Path]


class Wire(Peers):
    """`Peers` whose broadcasts go through a list, for messages without tensors."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.speaks, self.device = True, CPU

    def _broadcast(self, content: bytes) -> bytes:
        if self.speaks:
            self.sent.append(content)
            return content
        sent = self.sent.pop(0)
        assert len(sent) == len(content)  # or processes would wait for each other for ever
        return sent


@given(sizes=st.lists(st.integers(0, 3 * FIRST_PART), min_size=1, max_size=4), seed=st.integers(0, 255))
def test_messages_of_every_length_arrive(sizes: list[int], seed: int) -> None:
    wire = Wire()
    messages = [(f"kind {place}", bytes([seed]) * size) for place, size in enumerate(sizes)]
    for message in messages:
        wire.say(message)
    wire.speaks = False
    assert [wire.hear() for _ in messages] == [(message, []) for message in messages]
    assert wire.sent == []


def test_an_error_in_the_middle_of_a_forward_is_the_end() -> None:
    tape = Tape()
    leader = led(tape)

    def work() -> None:
        leader.say("forward")
        with leader.in_step():
            raise torch.OutOfMemoryError("2 GiB are too much")

    with pytest.raises(InputError, match="too little memory for a forward: 2 GiB"):
        leader.once("generate", work)
    assert tape.kinds == ["forward"]  # nobody would hear of the error
    with pytest.raises(InputError, match="out of step, as OutOfMemoryError was raised in the middle of a forward"):
        leader.once("generate", lambda: None)


def test_an_error_elsewhere_is_told() -> None:
    tape = Tape()
    leader, follower = led(tape), following(tape)

    def refuse(error: Exception) -> None:
        raise error

    for error, told in (
        (InputError("the prompt is empty"), "the prompt is empty"),
        (KeyError("x"), "the first process ended with KeyError: 'x'"),
    ):
        with pytest.raises(type(error)):
            leader.once("generate", lambda error=error: refuse(error))  # type: ignore[misc]
        with pytest.raises(InputError) as found:
            follower.once("generate", lambda: None)
        assert str(found.value) == told


def test_processes_that_do_different_things_are_told_so() -> None:
    tape = Tape()
    leader, follower = led(tape), following(tape)
    leader.once("generate", lambda: 1)
    with pytest.raises(InputError, match="here it is stream, in the first process generate; all must make the same"):
        follower.once("stream", lambda: None)
    leader.once("generate", lambda: 1)
    leader.once("generate", lambda: 2)
    tape.hear()
    with pytest.raises(InputError, match="all must make the same calls in the same order"):
        follower.once("generate", lambda: None)


def test_a_part_of_something_is_not_told_by_itself() -> None:
    tape = Tape()
    leader = led(tape)
    assert leader.once("load", lambda: leader.once("generate", lambda: 1) + 1, tell=str) == 2
    assert following(tape).once("load", lambda: None) == "2"
    assert tape.said == []


@pytest.fixture
def sides(tiny_target: Folder) -> tuple[ParallelDecoder, ParallelDecoder, Tape]:
    """The first process's decoder, which knows everything, another one's, which knows nothing, and what is said."""
    tape = Tape()
    leader, follower = led(tape), following(tape)
    model, same, third = (whole_model(tiny_target("llama")) for _ in range(3))

    def made() -> ParallelDecoder:
        target = Target(model, (), LeadingLayers(model, leader))
        return ParallelDecoder(leader, target, OracleDraft(third, noise=0.5), Static(3, 12), stop_ids=[2])

    first = leader.once("load", made, tell=lambda _: None)
    follower.once("load", lambda: None, model=same)
    (layers,) = follower.layers.values()
    return first, ParallelDecoder(follower, Target(same, (), layers)), tape


Sides = tuple[ParallelDecoder, ParallelDecoder, Tape]


def test_others_return_what_the_first_process_does(sides: Sides, tiny_target: Folder) -> None:
    first, other, tape = sides
    made = first.generate([[5, 6, 7], [9] * 20], max_new_tokens=15, temperature=0.6, seed=8)
    assert other.generate("nonsense", seed=-1) == made
    assert other.last_statistics == first.last_statistics
    streamed = list(first.stream([5, 6, 7], max_new_tokens=15))
    assert list(other.stream([])) == streamed and other.last_statistics == first.last_statistics
    alone = load(tiny_target("llama"), "none", dtype="float32", device="cpu").generate([5, 6, 7], max_new_tokens=15)
    assert not isinstance(alone, list) and [token for news in streamed for token in news] == alone.token_ids
    assert tape.said == []


def test_a_stream_that_is_closed_early_is_closed_everywhere(sides: Sides) -> None:
    first, other, tape = sides
    stream, same = first.stream([5, 6, 7], max_new_tokens=15), other.stream([])
    news = [next(stream), next(stream)]
    stream.close()  # type: ignore[attr-defined]
    assert [next(same), next(same)] == news
    same.close()  # type: ignore[attr-defined]
    assert tape.said == []


def test_an_error_in_a_stream_is_everybodys(sides: Sides) -> None:
    first, other, tape = sides
    stream, same = first.stream([5, 6, 7], max_new_tokens=15), other.stream([])
    assert next(stream) == next(same)
    norm: Any = first.target.model.model.norm  # type: ignore[union-attr]
    weight = norm.weight.detach().clone()
    norm.weight.data.fill_(float("nan"))
    for side in (stream, same):
        with pytest.raises(InputError, match="the target's logits are not finite"):
            next(side)
    norm.weight.data.copy_(weight)
    made = first.generate([5, 6, 7], max_new_tokens=5)
    assert other.generate([]) == made
    assert tape.said == []
