"""Attention of a tree: `tree_attention`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_tree_attention = operator("tree_attention")


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    tree_rows: int,
    masks: Tensor | None,
    positions: Tensor,
    scale: float,
    window: int = 0,
) -> Tensor:
    """Attention of tree nodes over the prefix and the tree.

    Query i of row b sees the prefix keys 0 … lengths[b] - 1, and tree key lengths[b] + j if bit j of masks[b, i] is
    set. A query that sees nothing gets 0. Accumulates in float32.

    Args:
        query: (B, Hq, N, head_dim) float32, float16 or bfloat16.
        keys, values: (B, Hkv, capacity, head_dim), same type: one layer of the cache; Hq is a multiple of Hkv.
        lengths: int32 (B,), prefix rows.
        tree_rows: rows behind the prefix that hold the tree.
        masks: int64 (B, N, words), or None for a chain: tree_rows = N, query i sees tree keys j <= i.
        positions: int64 (B, N), used if window > 0: 0 … 2^30 - 1 then.
        scale: factor of the scores before the softmax, above 0.
        window: if above 0, only keys with query position - key position < window are seen; tree_rows = N then.

    Unchecked on CUDA: that 0 <= lengths[b] <= capacity - tree_rows, and positions.

    Returns:
        (B, N, Hq, head_dim), contiguous, of the query's type.
    """
    output: Tensor = _tree_attention(query, keys, values, lengths, tree_rows, masks, positions, scale, window)
    return output
