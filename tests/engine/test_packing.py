"""Packed linear layers against plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltd.engine.packed_linear import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN linear operators")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_packed_equals_plain(dtype: torch.dtype, bias: bool, rows: int) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN has no packed linear layers of {dtype} on this processor")
    torch.manual_seed(0)
    linear = nn.Linear(40, 24, bias=bias).to(dtype)
    inputs = torch.randn(2, rows, 40, dtype=dtype)
    with torch.inference_mode():
        output = PackedLinear(linear, rows=32)(inputs)
    assert output.shape == (2, rows, 24)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(output, linear(inputs), **tolerance)


def test_what_it_has_no_arithmetic_for_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(4, 4)).double()
    weight = module[0].weight
    pack_linears(module)
    assert type(module[0]) is nn.Linear and module[0].weight is weight
    assert not any(map(can_pack, (torch.float64, torch.complex64, torch.int8)))


def test_every_linear_of_a_module_is_packed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    pack_linears(module)
    kinds = [type(child) for child in module.modules()]
    assert kinds.count(PackedLinear) == 2 and nn.Linear not in kinds and nn.LayerNorm in kinds
