"""The engine's products on every instruction set: any shape against float64, any number of rows against one row."""

from __future__ import annotations

import pytest
import torch
from call_runner import ARM
from emulated_tiles import EMULATED_TILES, add_emulated_tiles
from engine_models import DTYPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import ISA_IN_USE, ISAS

from ltd import _C, ops

AMX = "amx_bf16"


def packed(weight: torch.Tensor) -> torch.Tensor:
    result = torch.full(ops.packed_shape(*weight.shape, weight.dtype), torch.nan, dtype=weight.dtype)
    ops.pack_linear(weight, result)
    return result


def bits(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers, by which NaN equals NaN: which of its NaNs a processor answers with means nothing."""
    return values.where(~values.isnan(), torch.nan).view(torch.int32 if values.dtype == torch.float32 else torch.int16)


def extreme(rows: int, inputs: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Numbers of all magnitudes, a few of them infinite or none at all."""
    signs = torch.randn(rows, inputs, generator=generator).sign()
    least, largest = (-26, 16) if dtype == torch.float16 else (-140, 127)
    values = signs * torch.exp2(torch.empty(rows, inputs).uniform_(least, largest, generator=generator))
    chance = torch.rand(rows, inputs, generator=generator)
    values[chance < 0.1] = 0.0
    values[(chance > 0.98) & (torch.arange(rows)[:, None] % 3 == 0)] = torch.inf
    values[(chance > 0.99) & (torch.arange(rows)[:, None] % 5 == 0)] = torch.nan
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(0, 70), inputs=st.integers(1, 200), outputs=st.integers(1, 130), seed=st.integers(0, 2**31 - 1))
def test_any_shape(
    dtype: torch.dtype, engine_isa: str, rows: int, inputs: int, outputs: int, seed: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    result = ops.linear(x, packed(weight), outputs)
    exact = x.double() @ weight.double().T
    summing = inputs * 2.0**-23 * (x.double().abs() @ weight.double().abs().T)
    rounding = torch.finfo(dtype).eps * exact.abs().clamp_min(torch.finfo(dtype).tiny)
    assert ((result.double() - exact).abs() <= summing + rounding).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 40), (33, 7), (40, 131), (64, 1300)])
def test_any_number_of_rows_gives_the_bits_of_one(
    outputs: int, inputs: int, dtype: torch.dtype, engine_isa: str, threads: int
) -> None:
    """Whatever the numbers are: also where sums overflow, underflow or are none."""
    generator = torch.Generator().manual_seed(outputs)
    largest = 30 if engine_isa in (EMULATED_TILES, ARM) and inputs > 1000 else 70
    for make in (extreme, lambda *shape: torch.randn(*shape[:2], generator=generator).to(dtype)):
        weight = packed(make(outputs, inputs, dtype, generator))
        x = make(largest, inputs, dtype, generator)
        singly = bits(torch.cat([ops.linear(row[None], weight, outputs) for row in x]))
        for count in range(1, largest + 1):
            assert torch.equal(bits(ops.linear(x[:count], weight, outputs)), singly[:count])
            assert torch.equal(bits(ops.linear(x[-count:], weight, outputs)), singly[-count:])


def test_every_half_is_converted_both_ways(engine_isa: str) -> None:
    """All 65,536 of them, as weights and as results; of infinities and NaN a sum with zeros is none."""
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    weight = packed(halves[:, None])
    result = ops.linear(torch.ones(1, 1, dtype=torch.float16), weight, len(halves))[0]
    assert torch.equal(bits(result), bits(halves + 0.0))  # of -0 the sum with 0 is 0
    assert torch.equal(bits(ops.unpack_rows(weight, len(halves), 1, torch.arange(len(halves)))[:, 0]), bits(halves))


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_rounded_to_the_nearest_half(engine_isa: str, seed: int) -> None:
    """Of two halves a sum in float32 is exact or nearly so, often in the middle between two halves, or too large."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(-(2**15), 2**15, (3000, 2), generator=generator).to(torch.int16).view(torch.float16)
    neighbours = (pairs.view(torch.int16)[:, :1] + torch.tensor([0, 1], dtype=torch.int16)).view(torch.float16)
    rows = torch.tensor([[1.0, 1.0], [0.5, 0.5]], dtype=torch.float16)
    for halves in (pairs, neighbours):
        first, second = (rows[:, k, None].float() * halves[:, k].float() for k in (0, 1))
        assert torch.equal(bits(ops.linear(rows, packed(halves), len(halves))), bits((first + second).half()))


@pytest.mark.skipif(AMX not in ISAS, reason="this processor has no tiles")
@pytest.mark.parametrize("wild", [False, True])
def test_emulated_tiles_are_the_processors_own(wild: bool) -> None:
    add_emulated_tiles()
    generator = torch.Generator().manual_seed(3)
    shapes = (45, 200), (97, 200)
    if wild:
        x, weight = (extreme(*shape, torch.bfloat16, generator) for shape in shapes)
    else:
        x, weight = (torch.randn(*shape, generator=generator).bfloat16() for shape in shapes)
    results = []
    for isa in (AMX, EMULATED_TILES):
        _C.use_cpu_isa(isa)
        results.append(ops.linear(x, packed(weight), 97))
    _C.use_cpu_isa(ISA_IN_USE)
    assert torch.equal(*map(bits, results))
