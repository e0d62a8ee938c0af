"""A head with other words."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ltd.drafts.eagle3.head import Eagle3Head


def word_ids(head: Eagle3Head) -> Tensor:
    """The target's ids (Vd,) int64 of the words that a head proposes, in their order."""
    return head.d2t + torch.arange(len(head.d2t), device=head.d2t.device)


def with_words(head: Eagle3Head, ids: Tensor, rows: Tensor) -> Eagle3Head:
    """The same head with these words, ids (n,) int64 of the target, and their rows of the output layer (n,H)."""
    config = replace(head.config, draft_vocab_size=len(ids))
    changed = Eagle3Head(config, own_embedding=head.embed_tokens is not None).to(head.lm_head.weight)
    changed.d2t = ids - torch.arange(len(ids), device=ids.device)
    changed.t2d = torch.zeros_like(head.t2d).index_fill(0, ids, True)
    new = {"lm_head.weight": rows.to(head.lm_head.weight), "d2t": changed.d2t, "t2d": changed.t2d}
    changed.load_state_dict({**head.state_dict(), **new})
    return changed


def with_new_words(head: Eagle3Head, ids: Tensor, output: Tensor) -> Eagle3Head:
    """The same head with these words, ids (n,) int64: what it had keeps its row, others begin with the target's own.

    output: the target's output layer (V,H).
    """
    rows = output[ids].to(head.lm_head.weight)
    places = torch.full((head.config.vocab_size,), -1, device=ids.device)
    places[word_ids(head)] = torch.arange(len(head.d2t), device=ids.device)
    known = places[ids] >= 0
    rows[known] = head.lm_head.weight.detach()[places[ids][known]]
    return with_words(head, ids, rows)
