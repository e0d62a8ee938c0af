"""Builds the package: pyproject.toml holds the metadata, CMake builds the extension module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


IMPORTS = """
import sys, torch
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("ltd._C", sys.argv[1])
spec.loader.exec_module(module_from_spec(spec))
"""


class CMakeBuild(build_ext):
    """Runs CMake in build/cmake-<interpreter>, so that a second build only compiles what has changed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        cuda = os.environ.get("LTD_CUDA", "AUTO")
        try:
            built = self.run_cmake(target.name, cuda)
        except subprocess.CalledProcessError:
            if cuda != "AUTO":
                raise
            # Somebody who did not ask for CUDA kernels should not go without ltd for them.
            print("ltd: the build failed, see above; once more without CUDA kernels (LTD_CUDA=ON asks for them)")
            built = self.run_cmake(target.name, "OFF")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not written in place: another process may have the old one loaded.
        fresh = target.with_name(target.name + ".new")
        self.copy_file(str(built), str(fresh))
        fresh.replace(target)

    def run_cmake(self, name: str, cuda: str) -> Path:
        """Builds the module of that file name, and sees that it can be imported; where it lies."""
        folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DLTD_VERSION={self.distribution.get_version()}",
            f"-DLTD_CUDA={cuda}",
            f"-DLTD_CUDA_ARCHITECTURES={os.environ.get('LTD_CUDA_ARCHITECTURES', '')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(folder)], check=True)
        subprocess.run([sys.executable, "-c", IMPORTS, str(folder / name)], check=True)
        return folder / name


setup(ext_modules=[Extension("ltd._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
