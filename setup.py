"""Builds the package: pyproject.toml holds the metadata, CMake builds the extension module."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent.resolve() / "cmake"))

import extension


class CMakeBuild(build_ext):
    """Leaves the work to CMake."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        extension.build(target, self.distribution.get_version(), debug=bool(self.debug))


setup(ext_modules=[Extension("ltd._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
