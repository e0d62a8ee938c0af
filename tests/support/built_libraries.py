"""Libraries and programs of C++ that tests build for themselves."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]


def built_library(name: str, source: Path, build: Path) -> ctypes.CDLL:
    """The library `name` of the CMake project in `source`, built anew in `build` if older than its sources.

    Raises:
        RuntimeError: it cannot be built.
    """
    build_target(name, source, build)
    return ctypes.CDLL(str(build / f"lib{name}.so"))


def build_target(name: str, source: Path, build: Path, *options: str) -> None:
    """Builds a target of the CMake project in `source`, with these options of CMake; raises as `built_library`."""
    beside_python = Path(sys.executable).parent
    cmake, ninja = (shutil.which(tool, path=beside_python) or shutil.which(tool) for tool in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        raise RuntimeError(f"{name} cannot be built: cmake and ninja must be installed")
    build.mkdir(parents=True, exist_ok=True)
    with FileLock(build / "build.lock"):  # of several processes that run tests, one builds
        _run(name, cmake, "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
        _run(name, cmake, "--build", build, "--target", name)


def _run(name: str, *command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} cannot be built: {' '.join(map(str, command))}\n{done.stdout}")
