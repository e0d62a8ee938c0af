"""Candidates that the text itself proposes, beside the draft's: `merge_text`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_merge_text = operator("merge_text")


def merge_text(
    text_tokens: Tensor,
    text_parents: Tensor,
    text_scores: Tensor,
    text_counts: Tensor,
    candidates: int,
    roots: Tensor,
    tokens: Tensor,
    scores: Tensor,
    parents: Tensor,
    sources: Tensor,
    appended: Tensor,
) -> None:
    """Puts the text's candidates beside the draft's, in place; a candidate that both have stands there once.

    A candidate of the text is the draft's if that has the same token below the same parent, the first such; its score
    is then the higher of the two. All others are appended in their order, from column `candidates` on, and what is
    left of the T columns there is the root's token below the root, scored -inf. Where scores do not rise from parent to
    child in either of the two, `select_tree` can choose from the first candidates + T columns.

    Args:
        text_tokens: int64 (B, T), T <= 64; text_scores: float32 (B, T), NaN counts as -inf.
        text_parents: int32 (B, T), places among the text's candidates before, -1 = root.
        text_counts: int32 (B,), 0 … T: how many of them there are.
        candidates: the draft's columns; candidates + T <= C, and at most 2,048.
        roots: int64 (B,), root tokens.
        tokens: int64 (B, C); scores: float32 (B, C), NaN counts as -inf; parents: int32 (B, C), -1 = root; written.
        sources: int8 (B, C), written up to column candidates + T: who proposed each, 1 the draft, 2 the text, 3 both;
            0 where a column only fills up.
        appended: int32 (B,), written: how many of the text's candidates were appended.

    Unchecked on CUDA: that 0 <= text_counts[b] <= T, and that parents stand before their children.
    """
    _merge_text(
        text_tokens,
        text_parents,
        text_scores,
        text_counts,
        candidates,
        roots,
        tokens,
        scores,
        parents,
        sources,
        appended,
    )
