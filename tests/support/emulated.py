"""The CUDA kernels on the host: builds tests/cuda/emulation and lets tests decide about threads and barriers."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch  # noqa: F401 - ltd._C needs its libraries
from built_libraries import ROOT, built_library

from ltd import _C

KERNELS = "emulated cuda"


@functools.cache
def library() -> ctypes.CDLL:
    """The library of tests/cuda/emulation, built anew if older than its sources; its kernels are added to ltd's."""
    loaded = built_library("ltd_emulation", ROOT / "tests" / "cuda" / "emulation", ROOT / "build" / "emulation")
    loaded.ltd_emulated_kernels.restype = ctypes.c_void_p
    loaded.ltd_emulation_seed.argtypes = [ctypes.c_uint64]
    loaded.ltd_emulation_barrier_place.restype = ctypes.c_char_p
    loaded.ltd_emulation_barrier_visits.restype = ctypes.c_int64
    _C.add_kernels(loaded.ltd_emulated_kernels())
    return loaded


@contextmanager
def emulated_kernels(seed: int) -> Iterator[None]:
    """The operators run the emulated CUDA kernels here, and the seed decides the order of their threads."""
    library()
    before = _C.build_info()["cpu_kernels"]
    _C.use_cpu_isa(KERNELS)
    library().ltd_emulation_seed(seed)
    try:
        yield
    finally:
        _C.use_cpu_isa(before)


def barriers() -> list[str]:
    """file:line of the barriers that were reached so far."""
    places = library().ltd_emulation_barrier_place
    return [places(number).decode() for number in range(library().ltd_emulation_barriers())]


def visits() -> list[int]:
    """How often threads have come to each of barriers()."""
    return [library().ltd_emulation_barrier_visits(number) for number in range(library().ltd_emulation_barriers())]


@contextmanager
def without_barrier(number: int) -> Iterator[None]:
    """Barrier `number` of barriers() does nothing here."""
    library().ltd_emulation_skip_barrier(number)
    try:
        yield
    finally:
        library().ltd_emulation_skip_barrier(-1)
