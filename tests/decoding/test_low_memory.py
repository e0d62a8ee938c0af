"""Where a device has too little memory, what requests that have ended left there is let go; and copies of a decoder."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from test_recorded_cycles import KINDS, make_decoder, taped

from ltd.common.out_of_memory import is_out_of_memory
from ltd.engine.kv_cache import KVCache
from ltd.errors import InputError
from ltd.policies import Static
from ltd.target.target import Target, TargetSession

PROMPT = [5, 6, 7]
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nmore"),
    MemoryError("Unable to allocate 1 TiB for an array"),
)


def test_too_little_memory_is_recognised_on_the_processor_too() -> None:
    with pytest.raises(RuntimeError) as said:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert all(map(is_out_of_memory, (said.value, *ERRORS)))
    assert not is_out_of_memory(RuntimeError("the size of tensor a must match the size of tensor b"))


def failing(
    call: Callable[..., Any], target: Target, always: bool = False, error: Exception = ERRORS[0]
) -> Callable[..., Any]:
    """Has too little memory as long as there is something to spare, or always."""

    def tried(*arguments: Any, **options: Any) -> Any:
        if always or target.workspaces._free:
            raise error
        return call(*arguments, **options)

    return tried


@pytest.mark.parametrize("place", ["the caches", "the prompt"])
@pytest.mark.parametrize("error", ERRORS)
def test_recorded_workspaces_make_room(place: str, error: Exception) -> None:
    decoder = make_decoder("device")
    expected = decoder.generate(PROMPT, max_new_tokens=12, policy=Static(1, 4)).token_ids
    tapes = taped(decoder)
    decoder.generate(PROMPT, max_new_tokens=12)
    assert decoder.target.workspaces._free
    patched: dict[str, tuple[Any, str]] = {
        "the caches": (KVCache, "for_model"),
        "the prompt": (TargetSession, "prefill"),
    }
    owner, name = patched[place]
    with patch.object(owner, name, failing(getattr(owner, name), decoder.target, error=error)):
        answer = decoder.generate(PROMPT, max_new_tokens=12, policy=Static(1, 4))
    assert answer.token_ids == expected and len(tapes) > 1 and tapes[-1].replays and not tapes[-1].calls
    assert len(decoder.target.workspaces._free) == 1  # that of the second request alone


def test_where_that_does_not_suffice_it_is_said() -> None:
    decoder = make_decoder("device")
    taped(decoder)
    decoder.generate(PROMPT, max_new_tokens=4)
    with (
        patch.object(TargetSession, "prefill", failing(TargetSession.prefill, decoder.target, always=True)),
        pytest.raises(torch.OutOfMemoryError),
    ):
        decoder.generate(PROMPT, max_new_tokens=4)
    assert decoder.generate(PROMPT, max_new_tokens=4).token_ids


@pytest.mark.parametrize("error", ERRORS)
def test_texts_that_are_too_long_for_the_memory_are_refused(error: Exception) -> None:
    decoder = make_decoder("engine")
    with patch.object(KVCache, "for_model", side_effect=error):
        with pytest.raises(
            InputError, match=r"too little memory for 2 sequences of up to \d+ tokens.*fewer new"
        ) as said:
            decoder.generate([PROMPT, PROMPT], max_new_tokens=100)
        assert "\n" not in str(said.value)
    assert decoder.generate(PROMPT, max_new_tokens=4).token_ids
    with (
        patch.object(KVCache, "for_model", side_effect=RuntimeError("another fault")),
        pytest.raises(RuntimeError, match="another fault"),
    ):
        decoder.generate([PROMPT, PROMPT], max_new_tokens=100)


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_of_a_decoder_records_for_itself(kind: str) -> None:
    decoder = make_decoder(kind)
    tapes = taped(decoder)
    expected = decoder.generate(PROMPT, max_new_tokens=12).token_ids
    other = copy.deepcopy(decoder)
    del other.target.captures  # the tape's
    assert not other.target.workspaces._free and not other.target.pool._free
    others = taped(other)
    assert other.generate(PROMPT, max_new_tokens=12).token_ids == expected
    assert len(tapes) == len(others) == 1 and other.target.forward is not decoder.target.forward


def test_a_decoder_is_not_pickled() -> None:
    with pytest.raises(InputError, match=r"cannot be pickled.*ltd\.load"):
        pickle.dumps(make_decoder("layers"))
