"""Attention of a tree: `tree_attention`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

MERGE_COUNTERS = 1024
"""How many counters `tree_attention` takes."""

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
    longest: int = -1,
    counters: Tensor | None = None,
) -> Tensor:
    """Attention of tree nodes over the prefix and the tree.

    Query i of row b sees the prefix keys 0 … lengths[b] - 1, and tree key lengths[b] + j if bit j of masks[b, i] is
    set. A query that sees nothing gets 0. Accumulates in float32. Keys and values that a query does not see change
    nothing, even if they are infinite or NaN; on CUDA's tensor cores (16 bits, usual head sizes) values do, where they
    are hidden in a chain or by a window and share a tile with what is seen.

    On CUDA it is row-exact at one width: for the same B, N and heads on one GPU, a query has the same bits whichever of
    the keys that it sees, in order, are the prefix's and wherever in the tree the others lie. (The CPU's engine has an
    attention of its own, which is row-exact at all widths.)

    Args:
        query: (B, Hq, N, head_dim) float32, float16 or bfloat16.
        keys, values: (B, Hkv, capacity, head_dim), same type: one layer of the cache; Hq is a multiple of Hkv.
        lengths: int32 (B,), prefix rows.
        tree_rows: rows behind the prefix that hold the tree.
        masks: int64 (B, N, words), or None for a chain: tree_rows = N, query i sees tree keys j <= i.
        positions: int64 (B, N), used if window > 0: 0 … 2^30 - 1 then.
        scale: factor of the scores before the softmax, above 0.
        window: if above 0, only keys with query position - key position < window are seen; tree_rows = N then.
        longest: lengths[b] + tree_rows at most, -1 = capacity. CUDA has blocks for so many keys; a larger one than
            needed costs a little time and memory, and changes no bit. The CPU has no use for it.
        counters: int32 (MERGE_COUNTERS,), all 0, and 0 again afterwards; calls that may run at the same time need their
            own. With them CUDA may put splits together in the same launch, to the last bit as in the second launch that
            it else takes. The CPU leaves them alone.

    Unchecked on CUDA: that 0 <= lengths[b] <= capacity - tree_rows, that longest is large enough, which else costs
    time, positions, and that counters are 0.

    Returns:
        (B, N, Hq, head_dim), contiguous, of the query's type.
    """
    output: Tensor = _tree_attention(
        query, keys, values, lengths, tree_rows, masks, positions, scale, window, longest, counters
    )
    return output
