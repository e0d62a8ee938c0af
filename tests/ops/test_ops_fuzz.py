"""Random calls of all operators with wrong arguments: refused in a sentence and with nothing written, or done.

`make sanitize` runs many more of them through kernels that are built with sanitizers (LTD_FUZZ_SEEDS).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hostile_calls import Hostile, good_calls, hostile_calls
from op_cases import ISA_IN_USE, ISAS, bits_of
from random_calls import Call
from torch import Tensor

from ltd import _C

SEEDS = range(int(os.environ.get("LTD_FUZZ_SEEDS", "16")))
WROTE = "was selected without its parent"  # the one refusal that comes after rows of the batch before are written


@pytest.fixture
def kernels(seed: int) -> Iterator[None]:
    """Of one instruction set after the other, on one thread or two."""
    threads = torch.get_num_threads()
    _C.use_cpu_isa(ISAS[seed % len(ISAS)])
    torch.set_num_threads(1 + seed // len(ISAS) % 2)
    try:
        yield
    finally:
        _C.use_cpu_isa(ISA_IN_USE)
        torch.set_num_threads(threads)


def tensors_of(call: Call) -> list[Tensor]:
    found: list[Tensor] = []
    for argument in call.arguments:
        parts = argument if isinstance(argument, list) else [argument]
        found += [part for part in parts if isinstance(part, Tensor)]
    return found


def bits(tensor: Tensor) -> Tensor | None:
    """All that a tensor holds; None where that cannot be read."""
    end = tensor.storage_offset() + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    readable = not tensor.is_meta and tensor.numel() < 10**7
    if not readable or (tensor.numel() and (end + 1) * tensor.element_size() > tensor.untyped_storage().nbytes()):
        return None
    return bits_of(tensor)


def outcome(call: Call) -> str | list[Tensor]:
    """What the operator returns, or what it says."""
    try:
        result = getattr(torch.ops.ltd, call.name)(*call.arguments)
    except ValueError as refused:
        return str(refused)
    return [] if result is None else [result] if isinstance(result, Tensor) else list(result)


def as_shape(argument: object) -> object:
    """A tensor of the same shape, type and strides on the meta device."""
    if isinstance(argument, list):
        return [as_shape(part) for part in argument]
    if not isinstance(argument, Tensor):
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="meta")


def on_meta(call: Call) -> Call:
    return Call(call.name, [as_shape(argument) for argument in call.arguments])


def check(hostile: Hostile) -> bool:
    """Whether the call was refused."""
    call = hostile.call
    before = [bits(tensor) for tensor in tensors_of(call)]
    result = outcome(call)
    if isinstance(result, str):
        if WROTE not in result:
            for was, tensor in zip(before, tensors_of(call), strict=True):
                assert was is None or torch.equal(was, bits(tensor)), f"{hostile}: written, then refused: {result}"
        return True
    shapes = outcome(on_meta(call))
    assert not isinstance(shapes, str), f"{hostile}: done, but refused by the meta kernel: {shapes}"
    look = lambda tensors: [(t.shape, t.dtype, t.stride()) for t in tensors]  # noqa: E731
    assert look(shapes) == look(result), str(hostile)
    return False


@pytest.mark.parametrize("seed", SEEDS)
def test_hostile_calls(seed: int, kernels: None) -> None:
    """Most are refused, and what is done is done by the meta kernel too."""
    refused = [check(hostile) for hostile in hostile_calls(seed, changes=1 + seed % 3)]
    assert any(refused)


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_good_calls(seed: int, kernels: None) -> None:
    for call in good_calls(seed):
        assert not check(Hostile(call, "nothing", "changed")), call.name


def refuse_type(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex64)


def refuse_shape(tensor: Tensor) -> Tensor:
    return tensor[None]


@pytest.mark.parametrize("change", [refuse_type, refuse_shape])
def test_meta_kernels_say_what_the_others_say(change) -> None:
    """Of every tensor of every operator: the same sentence where types and shapes are wrong."""
    refused = 0
    for good in good_calls(0):
        for place, argument in enumerate(good.arguments):
            if not isinstance(argument, Tensor):
                continue
            call = good.on("cpu")
            call.arguments[place] = change(argument)
            said, said_on_meta = outcome(call), outcome(on_meta(call))
            assert isinstance(said, str) == isinstance(said_on_meta, str), (call.name, place, said, said_on_meta)
            if isinstance(said, str):
                refused += 1
                assert said == said_on_meta
    assert refused > 80
