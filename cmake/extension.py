"""Builds the extension module with CMake, in build/cmake-<interpreter>; a second build compiles what has changed.

    python cmake/extension.py        puts the module beside the package's sources

setup.py builds with this too. By itself it needs the standard library, torch and pybind11, but no setuptools, whose
older versions cannot read pyproject.toml. What of the environment counts is in docs/using.md: LTD_CUDA,
LTD_CUDA_ARCHITECTURES and LTD_INSTRUCTION_SETS.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import installed_torch

ROOT = Path(__file__).resolve().parent.parent

IMPORTS = """
import sys, torch
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("ltd._C", sys.argv[1])
spec.loader.exec_module(module_from_spec(spec))
"""


def build(target: Path, version: str, *, debug: bool = False) -> None:
    """Builds the module and puts it at `target`, whose name says for which interpreter it is.

    Raises:
        subprocess.CalledProcessError: the build failed, or what it made cannot be imported.
    """
    cuda = os.environ.get("LTD_CUDA") or "AUTO"
    try:
        built = run_cmake(target.name, version, cuda, debug=debug)
    except subprocess.CalledProcessError:
        if cuda != "AUTO":
            raise
        # Somebody who did not ask for CUDA kernels should not go without ltd for them.
        print("ltd: the build failed, see above; once more without CUDA kernels (LTD_CUDA=ON asks for them)")
        built = run_cmake(target.name, version, "OFF", debug=debug)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not written in place: another process may have the old one loaded.
    fresh = target.with_name(target.name + ".new")
    shutil.copy(built, fresh)
    fresh.replace(target)
    # What `ltd.common.module` compares with the torch that is there, before it loads what may not fit it.
    built_for(target).write_text(installed_torch.describe().version + "\n", encoding="utf-8")


def built_for(module: Path) -> Path:
    """Where it stands for which torch a module was built: each has its own, as modules for several Pythons may lie
    beside the sources."""
    return module.with_suffix(".torch")


def run_cmake(name: str, version: str, cuda: str, *, debug: bool) -> Path:
    """Builds the module of that file name, and sees that it can be imported; where it lies."""
    folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
    configure = [
        *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DLTD_VERSION={version}",
        f"-DLTD_CUDA={cuda}",
        f"-DLTD_CUDA_ARCHITECTURES={os.environ.get('LTD_CUDA_ARCHITECTURES', '')}",
        f"-DLTD_INSTRUCTION_SETS={os.environ.get('LTD_INSTRUCTION_SETS') or 'ALL'}",
        f"-DCMAKE_BUILD_TYPE={'Debug' if debug else 'Release'}",
    ]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", str(folder)], check=True)
    installed_torch.run_with_torch(["-c", IMPORTS, str(folder / name)])
    return folder / name


def project_version() -> str:
    """As pyproject.toml says; read without a parser of TOML, which Python 3.10 lacks."""
    found = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.M)
    assert found is not None, "pyproject.toml names no version"
    return found[1]


if __name__ == "__main__":
    try:
        build(ROOT / "python" / "ltd" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", project_version())
    except subprocess.CalledProcessError as error:
        sys.exit(f"ltd: the build failed, see above: {error}")
