"""The candidates to verify: `select_tree`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_select_tree = operator("select_tree")


def select_tree(
    tokens: Tensor,
    scores: Tensor,
    parents: Tensor,
    candidates: int,
    roots: Tensor,
    lengths: Tensor,
    node_tokens: Tensor,
    node_parents: Tensor,
    positions: Tensor,
    masks: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    node_candidates: Tensor,
) -> None:
    """Writes the best V candidates by (score descending, index ascending) as a tree, in ascending candidate index.

    Args:
        tokens: int64 (B, C); scores: float32 (B, C), NaN counts as -inf; parents: int32 (B, C), -1 = root.
        candidates: columns considered, at most C.
        roots: int64 (B,), root tokens.
        lengths: int32 (B,), positions of the roots.
        node_tokens: int64 (B, N), written; N - 1 = V <= candidates, V <= 512.
        node_parents: int32 (B, N), written: node indices, -1 for the root.
        positions: int64 (B, N), written: lengths + depth.
        masks: int64 (B, N, words), words >= N / 64, written: ancestors-or-self among the nodes.
        first_child, next_sibling: int32 (B, N), written: node indices in candidate order, -1 = none.
        node_candidates: int32 (B, N), written: the candidate behind each node, -1 for the root.

    Unchecked on CUDA: that the parent of a selected candidate stands before it and is selected, which it is if scores
    do not rise from parent to child; else the node hangs below the root.
    """
    _select_tree(
        tokens,
        scores,
        parents,
        candidates,
        roots,
        lengths,
        node_tokens,
        node_parents,
        positions,
        masks,
        first_child,
        next_sibling,
        node_candidates,
    )
