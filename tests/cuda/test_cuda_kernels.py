"""Every CUDA source compiles, and no kernel spills registers without a reason.

For one architecture of the build, as all take many minutes; `make cuda-check` does the same for all. They share what
has been compiled already: what has not changed is not compiled again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_check import Compiler, complaints, kernel_sources

ARCHITECTURES = ["sm_90"]  # of the cards that `make gpu-check` has been prepared for


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    found = Compiler.found()
    if found is None:
        pytest.skip("needs nvcc on the path, in CUDA_HOME or in /usr/local/cuda")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", kernel_sources(), ids=lambda source: source.stem)
def test_no_kernel_spills_registers_without_a_reason(compiler: Compiler, source: Path, architecture: str) -> None:
    known = compiler.architectures()
    if architecture not in known:
        pytest.skip(f"{compiler.nvcc} is too old for {architecture}")
    usages = compiler.usages(source, architecture, newest=known[-1])
    assert {usage.architecture for usage in usages} == {architecture}
    assert complaints(usages) == []
