"""What launch functions ask of CUDA's runtime, with a stand-in for it (runtime/)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cuda_check import KERNELS, find_nvcc, lines_of

SOURCES = [Path(__file__).parent / "runtime" / name for name in ("launches.cu", "runtime.cpp")]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("needs nvcc on the path, in CUDA_HOME or in /usr/local/cuda")
    program = tmp_path_factory.mktemp("launches") / "launches"
    command = [nvcc, *lines_of("cuda_options.txt"), "--cudart=none", f"-I{KERNELS}", *SOURCES, "-o", program]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def test_kernels_start_early_where_the_device_can(said: list[str]) -> None:
    assert said[:4] == [
        "device 0, in order: 0 attributes",
        "device 0, early: 1 attributes",
        "device 1, in order: 0 attributes",
        "device 1, early: 0 attributes",
    ]


def test_a_launch_that_fails_leaves_no_error_for_the_next(said: list[str]) -> None:
    assert said[4:7] == [
        "right: launched, no last error",
        "wrong: a CUDA kernel cannot be launched: refused, no last error",
        "too large: cudaFuncSetAttribute: refused, no last error",
    ]


def test_each_device_has_its_own_multiprocessors(said: list[str]) -> None:
    assert said[7:] == ["device 0: 132", "device 1: 78"]
