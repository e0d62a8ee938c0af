"""The check of the CUDA kernels: what it reads from the assembler's report, and that it refuses spills."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cuda_check
from cuda_check import Usage, complaints, demangle, find_nvcc, parse_usages, short_name

NVCC = find_nvcc()
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")

# Two kernels as nvcc 13.0 reports them, a function that was not inlined, and a line of an older assembler.
SMALL = "_ZN3ltd4cuda38_GLOBAL__N__b7b4bc46_6_toy_cu_2d14d34e12small_kernelINS_8BFloat16ELi3EEEvNS_4RowsIT_EEPf"
SPILLING = "_ZN3ltd4cuda38_GLOBAL__N__b7b4bc46_6_toy_cu_2d14d34e8spillingEPKfPf"
REPORT = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{SMALL}' for 'sm_90'
ptxas info    : Function properties for {SMALL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 256 bytes smem
ptxas info    : Compile time = 24.634 ms
ptxas info    : Compiling entry function '{SPILLING}' for 'sm_90'
ptxas info    : Function properties for {SPILLING}
    360 bytes stack frame, 360 bytes spill stores, 700 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 360 bytes cumulative stack size
ptxas info    : Compile time = 39.715 ms
ptxas info    : Function properties for _ZN3ltd4cuda6helperEf
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 384 bytes smem, 400 bytes cmem[0]
"""

# Ninety-six values that live across a barrier, with registers for thirty-two.
PLANTED = """
__global__ void __launch_bounds__(1024, 2) planted(const float* in, float* out) {
  float values[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) values[i] = in[threadIdx.x + i * 1024];
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 96; ++i) sum += values[i] * values[(i * 7 + 5) % 96] + values[i * 31 % 96] * sum;
  out[threadIdx.x] = sum;
}
"""
HARMLESS = "__global__ void harmless(float* out) { out[threadIdx.x] = 1; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test."""
    monkeypatch.setattr(cuda_check, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_the_report_is_read() -> None:
    assert parse_usages(REPORT) == [
        Usage(SMALL, "sm_90", registers=12, shared=256),
        Usage(SPILLING, "sm_90", registers=32, stack=360, spill_stores=360, spill_loads=700),
        Usage("_ZN3ltd4cuda6helperEf", "sm_90", stack=8),
        Usage("plain", "sm_80", registers=40, shared=384),
    ]
    assert parse_usages("nvcc warning : nothing here\n") == []


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        (
            "void ltd::cuda::_GLOBAL__N__b7b4bc46_6_toy_cu_2d14d34e::small_kernel<ltd::BFloat16, 3>(ltd::Rows<float>)",
            "small_kernel<BFloat16, 3>",
        ),
        ("void ltd::cuda::(anonymous namespace)::merge<float, (int)32, (bool)1>(float*)", "merge<float, 32, 1>"),
        ("ltd::cuda::<unnamed>::spilling(float const*, float*)", "spilling"),
        ("plain", "plain"),
        ("void scan<ltd::Pair<float, int> >(int (*)(int))", "scan<Pair<float, int>>"),
    ],
)
def test_names_are_short_and_keep_their_template_arguments(demangled: str, short: str) -> None:
    assert short_name(demangled) == short


def test_mangled_names_become_readable() -> None:
    usages = parse_usages(REPORT)
    demangle(usages, Path("/nowhere/nvcc"))
    if usages[0].kernel == SMALL:
        pytest.skip("needs c++filt")
    assert [usage.kernel for usage in usages] == ["small_kernel<BFloat16, 3>", "spilling", "helper", "plain"]


def test_a_spill_is_a_complaint_unless_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    usages = [
        Usage("merge<float>", "sm_80", registers=32, spill_stores=8, spill_loads=4),
        Usage("merge<float>", "sm_90", registers=32, spill_stores=0, spill_loads=4),
        Usage("scan", "sm_90", registers=32),
    ]
    assert complaints(usages) == ["merge<float> spills registers: 12 bytes on sm_80, 4 bytes on sm_90"]
    monkeypatch.setitem(cuda_check.ACCEPTED_SPILLS, ("merge<*>", "sm_90"), "once per call, in the last block only")
    assert complaints(usages) == ["merge<float> spills registers: 12 bytes on sm_80"]
    monkeypatch.setitem(cuda_check.ACCEPTED_SPILLS, ("merge<float>", "sm_80"), "the same")
    assert complaints(usages) == []


def test_without_nvcc_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: None)
    assert cuda_check.main([]) == 2
    assert cuda_check.main(["--if-possible"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("cuda-check was not run: there is no nvcc") for line in lines)


@needs_nvcc
def test_a_planted_spill_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, results = tmp_path / "planted.cu", tmp_path / "new" / "check.json"
    source.write_text(PLANTED + HARMLESS)
    assert cuda_check.main([str(source), "--json", str(results)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("planted spills registers: ")
    content = json.loads(results.read_text())
    assert {kernel["kernel"] for kernel in content["kernels"]} == {"planted", "harmless"}
    assert {kernel["architecture"] for kernel in content["kernels"]} >= {"sm_80", "sm_90"}
    assert len(content["complaints"]) == 1


@needs_nvcc
def test_what_has_not_changed_is_not_compiled_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cuda_check.Compiler, "architectures", lambda _: ["sm_80", "sm_90"])
    source = tmp_path / "harmless.cu"
    source.write_text(HARMLESS)
    assert cuda_check.main([str(source)]) == 0
    made = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert {name.rsplit("-", 1)[0] for name in made} == {"harmless-sm_80", "harmless-sm_90"}
    assert cuda_check.main([str(source)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == made
    source.write_text("\n" + HARMLESS)
    assert cuda_check.main([str(source)]) == 0
    assert not made.keys() & {path.name for path in cache.iterdir()}
    assert "harmless" in capsys.readouterr().out


@needs_nvcc
def test_an_error_of_the_compiler_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { not_there(); }\n")
    assert cuda_check.main([str(source)]) == 1
    error = capsys.readouterr().err
    assert "wrong.cu does not compile for " in error
    assert "not_there" in error
