"""The steps of gpu-check: what each runs, how long it may take and what it needs; only the standard library is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gpu_machine import ROOT
from gpu_place import Place, StepError, UnsupportedError, find_sanitizer
from system_python import OPERATORS, PACKAGE, PROGRAMS, missing_modules, missing_programs

KEPT = ROOT / "out" / "gpu-check"  # results of steps that need not be done again

Results = dict[str, Any] | None

NOT_SUPPORTED = "Device not supported"  # says compute-sanitizer of a GPU that it cannot watch

# Fails, with a sentence, where the module that was brought along cannot be imported or has no CUDA kernels.
HAS_KERNELS = """
import torch
from ltd import _C
info = _C.build_info()
print(_C.__file__, info)
if not info["cuda"]:
    raise SystemExit(f"{_C.__file__} has no CUDA kernels: {info['cuda_reason']}")
if str(info["torch"]) != torch.__version__:
    raise SystemExit(f"{_C.__file__} was built for torch {info['torch']}, not {torch.__version__}")
"""


def has_module() -> bool:
    """Whether the extension lies beside its sources, where every build puts it."""
    return any((ROOT / "python" / "ltd").glob("_C*.so"))


def build(place: Place) -> None:
    """The extension with its CUDA kernels; where it is not the system's Python, its environment before."""
    if place.prebuilt:
        place.run("build", place.python, "-c", HAS_KERNELS)
    elif place.system:
        place.run("build", place.python, "cmake/extension.py")
    else:
        place.run("build", "make", "V=1", "-W", "setup.py", "install", ".venv/.stamp-dev")


def check_cycles(place: Place) -> None:
    """Recorded cycles beside called ones, of every kind of request, as a mark lets all of them choose this GPU."""
    place.run("cycles", place.python, "bench/recorded_cycles.py", "--device", "cuda")


def check_decoding(place: Place) -> Results:
    """The decode loop with planted models: is the text the known one, were its cycles recorded, and how long does each
    part of a cycle take?"""
    options = ("--shape", "llama-8b", "--depth", "8", "--size", "60", "--tau", "5.5", "--device", "cuda")
    return place.read_json(
        "planted", lambda file: place.run("planted", place.python, "bench/planted.py", *options, "--out", file)
    )


def build_kernel_bench(place: Place) -> None:
    """The program of microbenchmarks, from the build's own objects."""
    if place.prebuilt:
        place.kernel_bench()
        return
    place.run("build", "cmake", "-S", ".", "-B", place.build_folder(), "-DLTD_BENCH=ON")
    place.run("build", "cmake", "--build", place.build_folder(), "--target", "kernel_bench")


def check_operators(place: Place) -> None:
    """Every operator against the CPU's. What the other tests share is left out: it needs more than these do."""
    options = ("-q", "--noconftest", "-p", "no:cacheprovider")
    place.run("operators", place.python, "-m", "pytest", *options, "tests/ops/test_ops_cuda.py", LTD_TEST_DEVICE="cuda")


def time_kernels(place: Place) -> Results:
    """The usual sizes, against the floor."""
    options = ("--device=cuda", "--seconds=0.05")
    return place.read_json(
        "kernels", lambda file: place.run("kernels", place.kernel_bench(), *options, f"--json={file}")
    )


def sanitize(place: Place, tool: str) -> None:
    """Every kernel under one of compute-sanitizer's tools.

    Raises:
        UnsupportedError: the tool cannot watch this GPU, as on some virtual machines.
    """
    options = ("--tool", tool, "--error-exitcode", "1")
    try:
        place.run(tool, find_sanitizer(place.python), *options, place.kernel_bench(), "--once", "--device=cuda")
    except StepError as error:
        if NOT_SUPPORTED in error.output:
            raise UnsupportedError(f"compute-sanitizer says {NOT_SUPPORTED!r} here") from error
        raise


def time_operators(place: Place) -> Results:
    """The operators beside what one would use otherwise; compiled ways too where there is time for compiling."""
    options = ("--no-compile",) if place.system else ()
    return place.read_json(
        "comparison",
        lambda file: place.run("comparison", place.python, "bench/gpu_operators.py", *options, "--json", file),
    )


def check_compiling(place: Place) -> Results:
    """Registers, memory and spills of every kernel on every architecture."""
    return place.read_json(
        "cuda-check", lambda file: place.run("cuda-check", place.python, "bench/cuda_check.py", "--json", file)
    )


def write_mark(place: Place) -> None:
    """The mark that lets `ltd` choose this GPU by itself, see `ltd.common.gpu_mark`."""
    place.run("mark", place.python, "-c", "from ltd.common.gpu_mark import write_mark; print(write_mark())")


@dataclass(frozen=True)
class Step:
    """A step: what it does, how many seconds it usually takes on 16 cores (an estimate) and may take at most, what it
    needs of the Python that runs it and of the machine, whether it does no more than compile, which steps must have
    succeeded before, and whether what it has built is still there, if it builds."""

    run: Callable[[Place], Results]
    usual: float
    limit: float
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    compiles: bool = False
    after: tuple[str, ...] = ("build",)
    is_built: Callable[[Place], bool] = lambda _: True


STEPS: dict[str, Step] = {
    "build": Step(
        build,
        usual=60,
        limit=1800,
        modules=("torch", "numpy", "pybind11"),
        programs=(*PROGRAMS, "nvcc"),
        compiles=True,
        after=(),
        is_built=lambda _: has_module(),
    ),
    "operators' tests": Step(check_operators, usual=90, limit=240, modules=(*OPERATORS, "pytest")),
    "cycles": Step(check_cycles, usual=40, limit=150, modules=PACKAGE),
    "decoding": Step(check_decoding, usual=60, limit=150, modules=PACKAGE),
    "microbenchmarks' build": Step(
        build_kernel_bench,
        usual=20,
        limit=300,
        compiles=True,
        is_built=lambda place: place.kernel_bench_file().is_file(),
    ),
    "microbenchmarks": Step(time_kernels, usual=30, limit=120, after=("microbenchmarks' build",)),
    "memcheck": Step(
        lambda place: sanitize(place, "memcheck"),
        usual=30,
        limit=180,
        programs=("compute-sanitizer",),
        after=("microbenchmarks' build",),
    ),
    "racecheck": Step(
        lambda place: sanitize(place, "racecheck"),
        usual=60,
        limit=240,
        programs=("compute-sanitizer",),
        after=("microbenchmarks' build",),
    ),
    "comparison": Step(time_operators, usual=30, limit=600, modules=PACKAGE),
    "compile report": Step(check_compiling, usual=120, limit=1200, modules=("rich",), programs=("nvcc",), after=()),
}


# What must have succeeded before `ltd` chooses the GPU by itself, and what must not have failed.
TELLING = ("build", "operators' tests", "cycles", "decoding")
WATCHING = ("memcheck", "racecheck")
MARK_SECONDS = 60.0


def steps_of(place: Place) -> Iterator[tuple[str, Step]]:
    """In their order. The report for other GPUs needs none, and so no time of a lent one."""
    for name, step in STEPS.items():
        if not (place.system and name == "compile report"):
            yield name, step


def missing(step: Step, place: Place) -> list[str]:
    """What a step needs and does not find. In .venv, modules, cmake and ninja come with the first step."""
    if place.prebuilt and step.compiles:
        return []
    if place.system:
        return missing_modules(step.modules) + missing_programs(step.programs, place.python)
    return missing_programs((p for p in step.programs if p not in ("cmake", "ninja")), place.python)


def file_name(name: str) -> str:
    """A step's or a GPU's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
