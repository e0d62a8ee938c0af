"""Builds the package: pyproject.toml holds the metadata, CMake builds the extension module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMake in build/cmake-<interpreter>, so that a second build only compiles what has changed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DLTD_VERSION={self.distribution.get_version()}",
            f"-DLTD_CUDA={os.environ.get('LTD_CUDA', 'AUTO')}",
            f"-DLTD_CUDA_ARCHITECTURES={os.environ.get('LTD_CUDA_ARCHITECTURES', '')}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(folder)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not written in place: another process may have the old one loaded.
        fresh = target.with_name(target.name + ".new")
        self.copy_file(str(folder / target.name), str(fresh))
        fresh.replace(target)


setup(ext_modules=[Extension("ltd._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
