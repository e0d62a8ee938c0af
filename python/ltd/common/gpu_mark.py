"""The mark in the user's cache that says where `make gpu-check` has passed: on this GPU, with this very build."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ltd.common.files import cache_folder, cached, file_hash, write_text
from ltd.common.json_files import read_json
from ltd.common.module import _C
from ltd.errors import InputError

MARK = "gpu-check.json"


def write_mark() -> Path:
    """Says that the check has passed here, with this build; returns the file.

    Raises:
        InputError: torch finds no GPU, or there is no place for a cache.
    """
    if not torch.cuda.is_available():
        raise InputError("torch finds no GPU, so there is none on which a check could have passed")
    file = cache_folder() / MARK
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(facts(torch.cuda.get_device_name()), indent=1) + "\n")
    return file


def is_marked(gpu: str) -> bool:
    """Whether the check has passed on a GPU of this name with this build. A mark that cannot be read is none."""
    file = cached(MARK)
    if file is None:
        return False
    try:
        return read_json(file, dict[str, Any]) == facts(gpu)
    except InputError:
        return False


def facts(gpu: str) -> dict[str, str | None]:
    """What the check has to be repeated for when it changes."""
    return {
        "gpu": gpu,
        "torch": str(torch.__version__),
        "transformers": installed("transformers"),
        "kernels_sha256": file_hash(Path(str(_C.__file__))),
    }


def installed(name: str) -> str | None:
    """A package's version; None where it is not installed as one."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
