"""Files of tensors that others may have written or damaged: nothing in them runs, and none takes more than its size."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from ltd.common.foreign_errors import reason_of
from ltd.errors import InputError

MOST_GROWTH = 20  # times; weights hardly shrink in a zip file, and what shrinks more is a trap
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (OSError, EOFError, LookupError, ValueError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What zip files that are none, or are damaged, raise."""


def read_tensors(source: Path | bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of its content. Raises InputError, which begins with `what`."""
    try:
        return load(source) if isinstance(source, bytes) else load_file(source)
    except FileNotFoundError as error:
        raise InputError(f"{what} is missing") from error
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} cannot be read: {reason_of(error)}") from error


def read_members(file: Path, names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Members of a zip file by name.

    Raises:
        One of `DAMAGE`: it is no zip file, lacks a member, is damaged, or unpacks to far more than its size.
    """
    with zipfile.ZipFile(file) as archive:
        check_growth(archive.infolist(), file.stat().st_size)
        return tuple(archive.read(name) for name in names)


def check_growth(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Raises ValueError if a zip file of so many bytes unpacks to far more, as its members say."""
    if sum(member.file_size for member in members) > MOST_GROWTH * size:
        raise ValueError(f"it unpacks to more than {MOST_GROWTH} times its size")
    if any(member.compress_type not in READABLE for member in members):
        raise ValueError("it is packed in a way that is not read")


def load_pickled(content: bytes) -> Any:
    """What `torch.save` wrote, as long as it is plain tensors and values: no pickled code is run.

    Raises:
        pickle.UnpicklingError: it holds pickled code, or is damaged.
        One of `DAMAGE`: it is damaged, or unpacks to far more than its size.
    """
    file = io.BytesIO(content)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_growth(archive.infolist(), len(content))
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def restore(checkpoint: Path, apply: Callable[[Any], None]) -> None:
    """Gives the state of a training that `torch.save` wrote to what goes on from it.

    Raises:
        InputError: it is damaged, or does not fit.
    """
    try:
        apply(load_pickled(checkpoint.read_bytes()))
    except InputError:
        raise
    except (pickle.UnpicklingError, AttributeError, *DAMAGE) as error:
        raise InputError(f"{checkpoint} is damaged or of another training; delete it and train again") from error
