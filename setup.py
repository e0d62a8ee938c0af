"""Builds the package: pyproject.toml holds the metadata but what is required, CMake builds the extension module."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent.resolve() / "cmake"))

import extension
import installed_torch

PACKAGES = [
    "transformers>=5",
    "safetensors",
    "numpy",
    "pydantic>=2.10",
    "typing_extensions",
    "typer",
    "rich",
    "tqdm",
    "filelock",
    "matplotlib",
]
# The commands that describe a package with a compiled module; it fits one series of torch.
COMPILED = {"bdist_wheel", "dist_info", "editable_wheel"}


def torch_requirement() -> str:
    """The torch that what is built will need: any of the sources, of the same series of what is compiled."""
    if COMPILED.isdisjoint(sys.argv):
        return installed_torch.ANY
    return f"torch=={installed_torch.describe().series}.*"


class CMakeBuild(build_ext):
    """Leaves the work to CMake."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        extension.build(target, self.distribution.get_version(), debug=bool(self.debug))

    def copy_extensions_to_source(self) -> None:
        """For a build beside the sources: the module, and what it was built for."""
        super().copy_extensions_to_source()
        package = self.get_finalized_command("build_py").get_package_dir("ltd")
        for ext in self.extensions:
            module = Path(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))
            self.copy_file(str(extension.built_for(module)), package)


setup(
    install_requires=[torch_requirement(), *PACKAGES],
    ext_modules=[Extension("ltd._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
