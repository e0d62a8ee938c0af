"""The build backend named in pyproject.toml: that of setuptools, but an installed torch is built for as it is.

`build-system.requires` does not name torch, as pip would then download one for the build alone, though the module must
fit the one that is there (see installed_torch.py). Where none is installed, any is asked for, and the package then
requires its series.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # hooks that stay as they are
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

import installed_torch

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What a build needs beside build-system.requires."""
    return build_meta.get_requires_for_build_wheel(config_settings) + missing_torch()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What an editable build needs beside build-system.requires."""
    return build_meta.get_requires_for_build_editable(config_settings) + missing_torch()


def missing_torch() -> list[str]:
    """A requirement of torch, where none is installed."""
    return [] if installed_torch.find() else [installed_torch.ANY]
