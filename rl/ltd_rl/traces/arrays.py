"""Whether the arrays of traces are what their header says, before anything counts on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ltd.common.json_files import check_values
from ltd.tree import candidate_count

Kinds = dict[str, tuple[DTypeLike, tuple[int | None, ...]]]
"""Types and shapes by name; None is any size."""
TYPES = {"F32": np.float32, "I16": np.int16, "U16": np.uint16, "F16": np.float16, "I32": np.int32}
NO_RANK = 65535  # of a level that has no node on the target's continuation, or is deeper than the tree


class ArrayEntry(TypedDict):
    """What the head of a safetensors file says of an array."""

    dtype: Literal["F32", "I16", "U16", "F16", "I32"]
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]]
    data_offsets: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=2, max_length=2)]


def view_array(content: NDArray[np.uint8], name: str, values: Any) -> NDArray[Any]:
    """An array in what lies behind a safetensors file's head.

    Args:
        content: of the file, behind its head.
        name: of the array.
        values: what the head says of it.

    Raises:
        ValueError: the head is no array's, or its place in the file is none.
    """
    entry = check_values(values, ArrayEntry, name)
    (first, end), kind = entry["data_offsets"], np.dtype(TYPES[entry["dtype"]])
    if not first <= end <= len(content) or end - first != math.prod(entry["shape"]) * kind.itemsize:
        raise ValueError(f"{name} does not fill its place in the file")
    array: NDArray[Any] = content[first:end].view(kind).reshape(entry["shape"])
    return array


def check_arrays(arrays: Mapping[str, NDArray[Any]], width: int, depth: int, positions: int, tokens: int) -> None:
    """Checks the arrays of a shard, see `ltd_rl.traces.format`, against each other and against its header.

    Args:
        arrays: by name.
        width, depth: W and D.
        positions: P of all its generations together.
        tokens: likewise, of prompts and answers.

    Raises:
        ValueError: an array is missing, unknown, or of another type or shape; or what it holds cannot be.
    """
    levels, count = depth + 1, candidate_count(width, depth)
    wanted: Kinds = {
        "candidates": (np.int32, (positions, count)),
        "scores": (np.float32, (positions, count)),
        "path": (np.int16, (positions, levels)),
        "ranks": (np.uint16, (positions, levels, levels)),
        "states": (np.float16, (positions, None)),
        "tokens": (np.int32, (tokens,)),
    }
    check_kinds(arrays, wanted)
    if np.any(arrays["tokens"] < 0):
        raise ValueError(f"tokens hold {arrays['tokens'].min()}, which is no token")
    starts = np.array([candidate_count(width, level - 1) for level in range(levels + 1)])
    check_path(arrays["path"], starts)
    check_ranks(arrays["ranks"], arrays["path"] >= 0, starts)


def check_kinds(arrays: Mapping[str, NDArray[Any]], wanted: Kinds) -> None:
    """Raises ValueError unless these are the arrays that are wanted, of their types and shapes; None is any size."""
    if missing := sorted(wanted.keys() - arrays.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if unknown := sorted(arrays.keys() - wanted.keys()):
        raise ValueError(f"it holds {', '.join(unknown)}, which no traces have")
    for name, (kind, shape) in wanted.items():
        _check_array(name, arrays[name], kind, shape)


def _check_array(name: str, array: NDArray[Any], kind: DTypeLike, shape: tuple[int | None, ...]) -> None:
    if array.dtype != kind:
        raise ValueError(f"{name} is of type {array.dtype}, but must be of {np.dtype(kind)}")
    sizes = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(size not in (None, found) for found, size in sizes):
        spelled = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is of shape {array.shape}, but by the header it must be ({spelled})")


def check_path(path: NDArray[np.int16], starts: NDArray[np.int64]) -> None:
    """Raises ValueError unless a path (P, D + 1) has a candidate of every level, up to one from which on it has none.

    Args:
        starts: int64 (D + 2,), the first candidate of each level, and one after the last.
    """
    there = path >= 0
    is_own = (path >= starts[:-1]) & (path < starts[1:])
    if np.any(~is_own & (path != -1)):
        raise ValueError("path holds numbers that are no candidates of their levels")
    if np.any(there[:, 1:] & ~there[:, :-1]):
        raise ValueError("path goes on below a level at which it has ended")


def check_ranks(ranks: NDArray[np.uint16], there: NDArray[np.bool_], starts: NDArray[np.int64]) -> None:
    """Raises ValueError unless ranks (P, D + 1, D + 1) are of those nodes that a path has, among as many candidates.

    Args:
        there: (P, D + 1), at which levels the path has a node.
        starts: as for `check_path`.
    """
    has_rank = there[:, None, :] & np.tri(there.shape[1], dtype=bool)  # in the tree of a depth: levels down to that
    if np.any((ranks != NO_RANK) != has_rank):
        raise ValueError("ranks are not those of the nodes in path")
    if np.any(has_rank & (ranks >= starts[1:, None])):
        raise ValueError("ranks hold numbers beyond the candidates of their depth")
