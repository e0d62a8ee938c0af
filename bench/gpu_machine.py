"""The GPU and the sources, as gpu-check sees them before anything is built; only the standard library is used."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("CMakeLists.txt", "Makefile", "setup.py", "cmake", "csrc", "python/ltd", "bench", "tests")
SUFFIXES = {".txt", ".py", ".cmake", ".h", ".cpp", ".cu", ".cuh", ""}

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of NVIDIA's driver.
CAPABILITY = (75, 76)


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name, and what to compile for, as CMake writes it (90 for compute capability 9.0)."""

    name: str
    architecture: str


def find_gpu() -> Gpu | None:
    """The first GPU, asked of NVIDIA's driver; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    name, device = ctypes.create_string_buffer(256), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    numbers = []
    for attribute in CAPABILITY:
        number = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
        numbers.append(number.value)
    return Gpu(name.value.decode(), "{}{}".format(*numbers))


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
