"""Kept tree rows become prefix rows: `commit_path`; what a cycle hands on: `gather_accepted`.

Words and errors: see `ltd.ops`.
"""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_commit_path = operator("commit_path")
_gather_accepted = operator("gather_accepted")


def commit_path(
    keys: Tensor, values: Tensor, path: Tensor, gained: Tensor, lengths: Tensor, advance: bool = False
) -> None:
    """Moves the accepted nodes' rows, lengths[b] + path[b, i], to lengths[b] + i, in place, for all layers.

    Args:
        keys, values: (layers, B, Hkv, capacity, head_dim), any type, written.
        path: int32 (B, P), strictly increasing.
        gained: int32 (B,), how many entries of the path count.
        lengths: int32 (B,), prefix rows; written only if told to advance.
        advance: whether the prefix grows by what was moved, lengths[b] += gained[b], where the operator runs.

    Unchecked on CUDA: that 0 <= gained[b] <= P, that the path is strictly increasing from 0 on, and that lengths[b] +
    path[b, i] lies in the capacity.
    """
    _commit_path(keys, values, path, gained, lengths, advance)


def gather_accepted(
    features: Tensor | None,
    path: Tensor,
    tokens: Tensor,
    gained: Tensor,
    gathered: Tensor | None,
    roots: Tensor,
    report: Tensor,
) -> None:
    """Writes what the next cycle reads, and all that the host needs to hear of this one, into buffers that stay.

    Behind what was gained, gathered features and the report's tokens are 0.

    Args:
        features: (B, N, F), any type, of the tree's nodes; None, as gathered, if nothing is tapped.
        path: int32 (B, P), accepted nodes, P <= 513.
        tokens: int64 (B, P), the target's token after each of them.
        gained: int32 (B,), how many of both count. 0 leaves the sequence's root as it is.
        gathered: (B, P, F), same type as features, written: row i is that of node path[b, i].
        roots: int64 (B,), written: the last token that counts.
        report: int64 (B, 2 + P), written: gained, root, tokens.

    Unchecked on CUDA: that 0 <= gained[b] <= P, and that 0 <= path[b, i] < N where it counts.
    """
    _gather_accepted(features, path, tokens, gained, gathered, roots, report)
