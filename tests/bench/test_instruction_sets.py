"""The benchmark of all instruction sets, from end to end at a tiny length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from op_cases import ISAS

import instruction_sets
from ltd.ops.library import build_info


@pytest.mark.parametrize("without_floors", ["", "--no-floors", "--cpu-time"])
def test_instruction_sets_stand_beside_their_floors(
    without_floors: str, tmp_path: Path, tiny_target: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_floors = not without_floors
    dtypes = ["bfloat16", "float16"] if with_floors else ["float32"]
    monkeypatch.setattr("floor.PRODUCT_SIDES", (64, 96))
    before = torch.get_num_threads(), build_info()["cpu_kernels"]
    isas = ISAS[-1:] if with_floors else ISAS
    sizes = ["--tokens", "1,3", "--prefix", "5", "--threads", "1", "--repeats", "2"]
    options = [*sizes, "--isas", ",".join(isas), *without_floors.split(), "--dtypes", ",".join(dtypes)]
    try:
        instruction_sets.main(["--target", str(tiny_target("llama")), *options, "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(before[0])
    assert build_info()["cpu_kernels"] == before[1]
    found = json.loads((tmp_path / "instruction-sets.json").read_text())["instruction_sets"]
    assert {dtype: list(sets) for dtype, sets in found.items()} == dict.fromkeys(dtypes, isas)
    names = {"median", "low", "high", "least"} | ({"bytes_floor", "arithmetic_floor"} if with_floors else set())
    for timings in (timings for sets in found.values() for timings in sets.values()):
        assert list(timings) == ["1", "3"]
        assert all(timing.keys() == names and min(timing.values()) > 0 for timing in timings.values())
        if with_floors:
            assert 2.9 < timings["3"]["arithmetic_floor"] / timings["1"]["arithmetic_floor"] < 3.3
            assert timings["3"]["bytes_floor"] == timings["1"]["bytes_floor"]
    table = (tmp_path / "table.md").read_text()
    assert ("arithmetic floor" in table) == with_floors
    assert table.count("\n| 3 |") == len(dtypes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--isas", "sse9"], "there is no sse9 here"),
        (["--dtypes", "float64"], "the engine does not run float64"),
        (["--repeats", "1"], "must be at least 2"),
    ],
)
def test_the_instruction_sets_benchmark_refuses_what_it_does_not_know(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        instruction_sets.main(options)
    assert message in capsys.readouterr().err
