"""Prints what CMake needs to know of the installed torch and pybind11, as a CMake list."""

from __future__ import annotations

import pathlib

import pybind11
import torch


def cuda_runtime() -> str:
    """The file of the CUDA runtime library that torch has loaded."""
    with open("/proc/self/maps") as maps:
        return next(line.split(maxsplit=5)[-1].strip() for line in maps if "/libcudart" in line)


root = pathlib.Path(torch.__file__).parent
facts = [
    torch.__version__,
    (root / "include").as_posix(),
    (root / "lib").as_posix(),
    str(int(torch._C._GLIBCXX_USE_CXX11_ABI)),
    torch.version.cuda or "none",
    cuda_runtime() if torch.version.cuda else "none",
    pathlib.Path(pybind11.get_include()).as_posix(),
]
print(";".join(facts))
