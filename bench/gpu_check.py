"""Builds, tests and times everything on this machine's NVIDIA GPU.

    python bench/gpu_check.py [--fresh]          (or: make gpu-check)

One step after the other: the build, the CUDA compile report, the operators' tests on the GPU, compute-sanitizer's
memcheck and racecheck of every kernel, the microbenchmarks, and the operators beside what one would use otherwise. A
step that has succeeded is not done again until a source changes. All results go to bench/results/<gpu>/results.json.
Not yet run: nothing of it works without a GPU.

Only the standard library is used here, since the first step makes the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
OUT = ROOT / "out" / "gpu-check"
SOURCES = ("CMakeLists.txt", "Makefile", "setup.py", "cmake", "csrc", "python/ltd", "bench", "tests")
SUFFIXES = {".txt", ".py", ".cmake", ".h", ".cpp", ".cu", ".cuh", ""}
SANITIZER_PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


class StepError(Exception):
    """A step has failed; the message says what."""


# --- what is here ---


def gpu_name() -> str | None:
    """The first GPU's name, asked of NVIDIA's driver; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    name, device = ctypes.create_string_buffer(256), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    return name.value.decode()


def source_digest() -> str:
    """Changes with every source that a step depends on."""
    digest = hashlib.sha256()
    for place in SOURCES:
        path = ROOT / place
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        for file in files:
            if file.suffix in SUFFIXES:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def find_sanitizer() -> str:
    """Where compute-sanitizer is.

    Raises:
        StepError: it is not here.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), *SANITIZER_PLACES])
    found = shutil.which("compute-sanitizer", path=places)
    if found is None:
        raise StepError("compute-sanitizer was not found; it comes with the CUDA toolkit")
    return found


# --- steps ---


def run(*command: str | Path, **environment: str) -> None:
    """Runs a command in the repository, with its output on the terminal.

    Raises:
        StepError: it has failed.
    """
    code = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False).returncode
    if code != 0:
        raise StepError(f"{' '.join(map(str, command))} ended with exit code {code}")


def kernel_bench() -> Path:
    """The program of microbenchmarks that the build step has made."""
    found = sorted(ROOT.glob("build/cmake-*/bench/kernels/kernel_bench"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StepError("kernel_bench has not been built")
    return found[-1]


def build() -> None:
    """The environment, the extension with its CUDA kernels, and the microbenchmarks."""
    run("make", "V=1", "-W", "setup.py", "install", ".venv/.stamp-dev", "kernel-bench-build", LTD_CUDA="ON")


def check_compiling() -> dict[str, Any]:
    """Registers, memory and spills of every kernel on every architecture."""
    return with_json("cuda-check", lambda file: run(PYTHON, "bench/cuda_check.py", "--json", file))


def check_operators() -> None:
    """Every operator against the CPU's."""
    run(PYTHON, "-m", "pytest", "-q", "tests/ops/test_ops_cuda.py", LTD_TEST_DEVICE="cuda")


def sanitize(tool: str) -> None:
    """Every kernel under one of compute-sanitizer's tools."""
    run(find_sanitizer(), "--tool", tool, "--error-exitcode", "1", kernel_bench(), "--once")


def time_kernels() -> dict[str, Any]:
    """All sizes, against the floor."""
    return with_json("kernels", lambda file: run(kernel_bench(), "--benchmark_filter=^cuda/", f"--summary={file}"))


def time_operators() -> dict[str, Any]:
    """The operators beside what one would use otherwise."""
    return with_json("operators", lambda file: run(PYTHON, "bench/gpu_operators.py", "--json", file))


def with_json(name: str, work: Callable[[Path], None]) -> dict[str, Any]:
    """What `work` writes into the file that it is given."""
    file = OUT / f"{name}-results.json"
    work(file)
    return read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. `ltd.common.json_files` is not there before the first step has made it.

    Raises:
        StepError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise StepError(f"{file} holds no JSON object")
    return content


STEPS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "build": build,
    "compile report": check_compiling,
    "operators' tests": check_operators,
    "memcheck": lambda: sanitize("memcheck"),
    "racecheck": lambda: sanitize("racecheck"),
    "microbenchmarks": time_kernels,
    "comparison": time_operators,
}


@dataclass
class Done:
    """How a step has ended."""

    ok: bool
    message: str = ""
    results: dict[str, Any] | None = None


def run_step(name: str, step: Callable[[], dict[str, Any] | None], state: str) -> Done:
    """Runs a step, unless it has succeeded already in the same state of the sources, and keeps its result."""
    file = OUT / f"{re.sub(r'[^a-z]+', '-', name)}.json"
    if file.is_file():
        with contextlib.suppress(StepError):  # damaged: the step is done again
            kept = read_object(file)
            if kept.get("state") == state and "results" in kept:
                print(f"== {name}: done before")
                return Done(True, results=kept["results"])
    print(f"== {name}", flush=True)
    try:
        results = step()
    except StepError as error:
        print(f"gpu-check: {name} failed: {error}", file=sys.stderr)
        return Done(False, str(error))
    file.write_text(json.dumps({"state": state, "results": results}))
    return Done(True, results=results)


# --- results ---


def print_results(done: dict[str, Done]) -> None:
    """The timings, and how every step has ended."""
    kernels = done["microbenchmarks"].results or {"results": []}
    print(f"\n{'kernel':<60} {'median us':>10} {'GB/s':>8} {'of floor':>9}")
    for line in kernels["results"]:
        share = f"{100 * line['floor_share']:.0f} %"
        print(f"{line['name']:<60} {line['median_us']:>10.1f} {line['gb_per_s']:>8.0f} {share:>9}")
    comparison = done["comparison"].results or {"results": []}
    print(f"\n{'operator':<60} {'ltd us':>10} {'best other us':>14}")
    for line in comparison["results"]:
        best = min(line["others"], key=lambda name: line["others"][name]["median"])
        other = f"{line['others'][best]['median']:.1f}"
        print(f"{line['operator']:<60} {line['ltd']['median']:>10.1f} {other:>14} ({best})")
    print()
    for name, step in done.items():
        print(f"{name:<20} {'ok' if step.ok else f'failed: {step.message}'}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Builds, tests and times everything on an NVIDIA GPU.")
    parser.add_argument("--fresh", action="store_true", help="do all steps again")
    options = parser.parse_args(arguments)
    gpu = gpu_name()
    if gpu is None:
        print("gpu-check needs an NVIDIA GPU and its driver, and finds none here", file=sys.stderr)
        return 2
    if options.fresh:
        shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    state = f"{gpu} {source_digest()}"
    done: dict[str, Done] = {}
    for name, step in STEPS.items():
        if name != "build" and not done["build"].ok:
            done[name] = Done(False, "there is no build")
        else:
            done[name] = run_step(name, step, state)
    print_results(done)
    file = ROOT / "bench" / "results" / re.sub(r"[^a-z0-9]+", "-", gpu.lower()) / "results.json"
    file.parent.mkdir(exist_ok=True)
    steps = {name: {"ok": step.ok, "message": step.message, "results": step.results} for name, step in done.items()}
    file.write_text(json.dumps({"gpu": gpu, "steps": steps}, indent=2) + "\n")
    print(f"written: {file.relative_to(ROOT)}")
    return 0 if all(step.ok for step in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
