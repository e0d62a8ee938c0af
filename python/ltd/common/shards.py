"""Numbered files of tensors that a long job writes one by one, so that it can go on where it was stopped."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ltd.common.files import written_whole
from ltd.common.tensor_files import read_tensors
from ltd.errors import InputError

SHARDS = "[0-9]*.safetensors"  # a pattern of their names


def shard_file(folder: Path, number: int) -> Path:
    """The file of one shard."""
    return folder / f"{number:05d}.safetensors"


def shard_files(folder: Path) -> list[Path]:
    """The finished shards, in order."""
    return sorted(folder.glob(SHARDS))


def leading_shards(folder: Path) -> list[Path]:
    """The finished shards that stand one behind the other from the first on: those behind a missing one are no part."""
    return [file for number, file in enumerate(shard_files(folder)) if file == shard_file(folder, number)]


def write_shard(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes a whole shard or none; raises OSError if it cannot be written."""
    with written_whole(file) as unfinished:
        try:
            save_file(tensors, unfinished)
        except SafetensorError as error:  # of the system, as the tensors are ours
            raise OSError(errno.EIO, str(error)) from error


def read_shard(
    file: Path, types: Mapping[str, tuple[torch.dtype, int]], alike: Sequence[Sequence[str]] = ()
) -> dict[str, Tensor]:
    """The tensors of a shard.

    Args:
        file: to read.
        types: of every tensor that must be in it: type and number of dimensions.
        alike: names of tensors that must have as many rows as each other.

    Raises:
        InputError: it is damaged, or holds something else.
    """
    again = "delete it, and run again"
    try:
        tensors = read_tensors(file, str(file))
    except InputError as error:
        raise InputError(f"{error}; {again}") from error
    for name, (dtype, dimensions) in types.items():
        if name not in tensors or (tensors[name].dtype, tensors[name].dim()) != (dtype, dimensions):
            raise InputError(f"{file} is damaged: it holds no {name} as it should; {again}")
    for names in alike:
        if len({len(tensors[name]) for name in names}) > 1:
            found = ", ".join(f"{len(tensors[name])} of {name}" for name in names)
            raise InputError(f"{file} is damaged: it holds {found}, which must be as many; {again}")
    return tensors


def check_space(folder: Path, needed: float, what: str, limit: tuple[str, float], items: str) -> None:
    """Raises InputError if shards take more space than is allowed, or than there is beside the finished ones.

    Args:
        folder: where the shards are, or will be.
        needed: by all shards, in GB.
        what: begins the message, up to the number of GB.
        limit: the option that says how many GB are allowed, and its value.
        items: what to ask for fewer of.
    """
    option, most = limit
    what = f"{what} {needed:.3g} GB"
    if not needed <= most:  # nor is it a number that is none
        raise InputError(f"{what}, but {option} is {most:g}; raise it or ask for fewer {items}")
    kept = _kept_by(folder)
    free = space_for(folder) - kept
    if needed - kept > free:
        raise InputError(f"{what}, but the disk has only {free:.3g} GB left; free some or ask for fewer {items}")


def space_for(folder: Path) -> float:
    """GB that all shards of a folder can take, finished ones included, by what is free on its disk."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return _kept_by(folder) + shutil.disk_usage(existing).free / 1e9


def _kept_by(folder: Path) -> float:
    return sum(file.stat().st_size for file in shard_files(folder)) / 1e9
