"""Prints what CMake needs to know of the installed torch and pybind11, as a CMake list."""

from __future__ import annotations

import pathlib

import pybind11
import torch

root = pathlib.Path(torch.__file__).parent
facts = [
    torch.__version__,
    (root / "include").as_posix(),
    (root / "lib").as_posix(),
    str(int(torch._C._GLIBCXX_USE_CXX11_ABI)),
    str(int(torch.backends.openmp.is_available())),
    torch.version.cuda or "none",
    pathlib.Path(pybind11.get_include()).as_posix(),
]
print(";".join(facts))
