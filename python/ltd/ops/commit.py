"""Kept tree rows become prefix rows: `commit_path`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_commit_path = operator("commit_path")


def commit_path(keys: Tensor, values: Tensor, path: Tensor, gained: Tensor, lengths: Tensor) -> None:
    """Moves the accepted nodes' rows, lengths[b] + path[b, i], to lengths[b] + i, in place, for all layers.

    Args:
        keys, values: (layers, B, Hkv, capacity, head_dim), any type, written.
        path: int32 (B, P), strictly increasing.
        gained: int32 (B,), how many entries of the path count.
        lengths: int32 (B,), prefix rows; not changed.

    Unchecked on CUDA: that 0 <= gained[b] <= P, that the path is strictly increasing from 0 on, and that lengths[b] +
    path[b, i] lies in the capacity.
    """
    _commit_path(keys, values, path, gained, lengths)
