"""What several rules read of a draft tree."""

from __future__ import annotations

from functools import lru_cache

import torch

from ltd import ops
from ltd.errors import InputError
from ltd.tree import DraftTree


def newest_entropy(tree: DraftTree) -> torch.Tensor:
    """float32 (B,), nats: the draft's entropy where the newest level's best candidate (ties: the first) grew from."""
    logits = tree.logits
    if logits is None:
        raise ValueError("the tree has no level yet")
    rows = tree.newest_scores.argmax(dim=1) // tree.width
    chosen = logits[torch.arange(len(rows), device=rows.device), rows] if logits.shape[1] > 1 else logits[:, 0]
    return ops.row_entropy(chosen[:, None])[:, 0]


def best_of_newest(tree: DraftTree) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the newest level's best-scored candidate: probability given its parent, entropy, level; (B,) each."""
    scores, places = tree.newest_scores.max(dim=1, keepdim=True)
    if tree.levels > 1:
        parents = tree.parents.gather(1, places + tree.newest_from).long()
        scores = scores - tree.scores.gather(1, parents)
    return scores[:, 0].exp(), newest_entropy(tree), torch.full_like(scores[:, 0], tree.levels - 1)


def check_threshold(threshold: float) -> None:
    """Raises InputError unless a threshold is a probability."""
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"threshold {threshold} is out of range; it must be 0 … 1")


@lru_cache(maxsize=64)
def levels_of(counts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """float32 (C,): the level of every candidate of a tree with so many after 0, 1, 2 … levels."""
    each = torch.tensor(counts).diff()
    return torch.arange(len(each), dtype=torch.float32).repeat_interleave(each).to(device)
