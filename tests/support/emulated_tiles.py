"""The engine with emulated tiles: builds tests/engine/tiles, whose kernels run on any processor."""

from __future__ import annotations

import ctypes
import functools

import torch  # noqa: F401 - ltd._C needs its libraries
from built_libraries import ROOT, built_library

from ltd import _C

EMULATED_TILES = "emulated tiles"


@functools.cache
def add_emulated_tiles() -> None:
    """Makes the kernels usable under the name EMULATED_TILES."""
    library = built_library("ltd_emulated_tiles", ROOT / "tests" / "engine" / "tiles", ROOT / "build/emulated-tiles")
    library.ltd_emulated_tiles.restype = ctypes.c_void_p
    _C.add_kernels(library.ltd_emulated_tiles())
