"""The engine's operators: packed weights, torch's own checks, bad inputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_models import DTYPES, family_engine, family_model, new_cache

from ltd import ops
from ltd.engine.cpu import Engine
from ltd.engine.forward import TreeBlock
from ltd.errors import InputError


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (32, 2), (33, 7), (97, 64)])
def test_packing(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight = torch.randn(outputs, inputs + 3).to(dtype)[:, :inputs]
    packed = torch.full(ops.packed_shape(outputs, inputs, dtype), torch.nan, dtype=dtype)
    ops.pack_linear(weight, packed)
    width = packed.shape[2] // 32
    padded = torch.zeros(packed.shape[0] * 32, packed.shape[1] * width, dtype=dtype)
    padded[:outputs, :inputs] = weight
    steps = padded.view(-1, 32, packed.shape[1], width).transpose(1, 2)
    if dtype == torch.float16:  # the first inputs of all outputs, and then the second ones
        steps = steps.transpose(2, 3)
    assert torch.equal(packed, steps.flatten(2))
    ids = torch.randint(outputs, (2, 5))
    assert torch.equal(ops.unpack_rows(packed, outputs, inputs, ids), weight[ids])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (33, 7), (96, 130)])
def test_linear(outputs: int, inputs: int, dtype: torch.dtype, engine_isa: str, threads: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    packed = torch.empty(ops.packed_shape(outputs, inputs, dtype), dtype=dtype)
    ops.pack_linear(weight, packed)
    rows = torch.randn(300, inputs, generator=generator).to(dtype)
    singly = torch.cat([ops.linear(row[None], packed, outputs) for row in rows])
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(singly, (rows.double() @ weight.double().T).to(dtype), rtol=tolerance, atol=tolerance)
    for count in (0, 1, 2, 11, 12, 13, 24, 25, 252, 253, 300):  # around the limits of tiles and groups of rows
        assert torch.equal(ops.linear(rows[:count], packed, outputs), singly[:count])
    batch = rows.view(3, 100, inputs).transpose(0, 1)
    assert torch.equal(ops.linear(batch, packed, outputs), singly.view(3, 100, outputs).transpose(0, 1))


def stack_arguments() -> dict[str, Any]:
    engine = family_engine("qwen3", torch.float32)
    cache = new_cache(family_model("qwen3", torch.float32), 2, 256)
    cosines, sines, _ = engine.rotary.for_block(TreeBlock.chain(torch.zeros(1, dtype=torch.int32), 1), 256)
    positions = torch.arange(4).expand(2, 4)
    return {
        "weights": engine.weights,
        "states": torch.randn(2, 4, 32),
        "cosines": cosines,
        "sines": sines,
        "rotary_rows": positions,
        "keys": cache.keys,
        "values": cache.values,
        "lengths": cache.lengths,
        "masks": None,
        "positions": positions,
        "taps": (1,),
        "kept": 2,
    }


BAD_INPUTS: list[tuple[str, Any, str]] = [
    ("states", torch.randn(2, 4, 31), "input_norm must have size 31 in dimension 1"),
    ("states", torch.randn(2, 4, 32, dtype=torch.float64), "Float, Half or BFloat16"),
    ("keys", torch.zeros(8, 2, 2, 256, 16, dtype=torch.bfloat16), "keys must be of type"),
    ("values", torch.zeros(8, 2, 2, 255, 16), "values must have size 256 in dimension 3"),
    ("lengths", torch.tensor([0, 253], dtype=torch.int32), r"lengths\[1\] = 253 and 4 new rows do not fit"),
    ("lengths", torch.tensor([0, -1], dtype=torch.int32), r"lengths\[1\] = -1"),
    ("rotary_rows", torch.full((2, 4), 256), "rotary_rows must be 0 to 255, but holds 256"),
    ("masks", torch.zeros(2, 4, 0, dtype=torch.int64), "a bit for each of the 4 rows"),
    ("positions", torch.zeros(2, 4), "positions must be of type"),
    ("taps", (9,), "taps must be 0 to 8"),
    ("kept", 5, "kept must be 0 to 4"),
    ("first_row", 1, "first_row must be 0 without masks or with a window, but is 1"),
    ("embeddings", torch.randn(2, 4, 32), "must be given together"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_INPUTS)
def test_bad_input_is_named(name: str, value: Any, message: str) -> None:
    arguments = stack_arguments()
    ops.forward_stack(**arguments)
    with pytest.raises(InputError, match=message):
        ops.forward_stack(**{**arguments, name: value})


def test_bad_weights_and_models_are_named() -> None:
    packed = torch.zeros(ops.packed_shape(5, 4, torch.float32))
    with pytest.raises(InputError, match="packed must have size 2 in dimension 0"):
        ops.pack_linear(torch.randn(40, 4), packed)
    with pytest.raises(InputError, match="must be 0 to 4, but holds 5"):
        ops.unpack_rows(packed, 5, 4, torch.tensor([5]))
    with pytest.raises(InputError, match=r"packed must hold a weight of shape \[5, 3\]"):
        ops.linear(torch.randn(2, 3), packed, 5)
    with pytest.raises(InputError, match="packed must be of type BFloat16, but is Float"):
        ops.linear(torch.randn(2, 4).bfloat16(), packed, 5)
    with pytest.raises(InputError, match="needs float32, bfloat16 or float16 on the CPU"):
        Engine(copy.deepcopy(family_model("llama", torch.float32)).double())


def test_opcheck() -> None:
    arguments = stack_arguments()
    w = arguments.pop("weights")
    flat = [arguments.pop("states"), w.input_norm, w.qkv, w.qkv_bias, w.query_norm, w.key_norm, w.output, w.output_bias]
    flat += [w.post_norm, w.gate_up, w.gate_up_bias, w.down, w.down_bias, w.final_norm, w.lm_head, w.query_heads]
    flat += [w.intermediate, w.vocabulary, w.epsilon, w.scale]
    rest = list(arguments.values())
    torch.library.opcheck(
        torch.ops.ltd.forward_stack.default, (*flat, *rest[:8], w.windows, *rest[8:], None, None, False, 0)
    )
    packed = torch.zeros(ops.packed_shape(5, 4, torch.float32))
    torch.library.opcheck(torch.ops.ltd.pack_linear.default, (torch.randn(5, 4), packed))
    torch.library.opcheck(torch.ops.ltd.linear.default, (torch.randn(2, 3, 4), packed, 5))
    torch.library.opcheck(torch.ops.ltd.unpack_rows.default, (packed, 5, 4, torch.tensor([[1, 4]])))
