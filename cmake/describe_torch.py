"""Prints what CMake needs to know of the torch that is built for and of pybind11, as a CMake list."""

from __future__ import annotations

import pathlib

import installed_torch
import pybind11

found = installed_torch.describe()
facts = [
    found.version,
    (pathlib.Path(found.folder) / "include").as_posix(),
    (pathlib.Path(found.folder) / "lib").as_posix(),
    str(int(found.cxx11_abi)),
    found.cuda or "none",
    found.cuda_runtime or "none",
    pathlib.Path(pybind11.get_include()).as_posix(),
]
print(";".join(facts))
