"""A level of candidates: `expand_beam`. Words and errors: see `ltd.ops`."""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator
from ltd.ops.noise import Noise

_expand_beam = operator("expand_beam")


def expand_beam(
    logits: Tensor,
    d2t: Tensor | None,
    level: int,
    tokens: Tensor,
    scores: Tensor,
    parents: Tensor,
    beam_nodes: Tensor,
    beam_rows: Tensor,
    beam_tokens: Tensor,
    beam_masks: Tensor,
    noise: Noise | None = None,
    lengths: Tensor | None = None,
    temperature: float = 1.0,
    sharpness: float = 1.0,
) -> None:
    """Adds one level of candidates to the draft tree and chooses the next beam.

    Every beam row's W best draft tokens become candidates: those with the largest logit / temperature, with noise the
    largest logit / temperature + noise, ties: smallest draft id. Score = parent's score + log-softmax of sharpness *
    these values. The W best new candidates by (score descending, index ascending) are the next beam. NaN logits count
    as -inf.

    With noise a draft proposes what it would sample itself at the place, if the target samples with the same noise
    (`accept_sample`). A draft id whose target id lies outside of the noise's vocabulary is proposed last.

    Args:
        logits: (B, R, Vd) float32, float16 or bfloat16; R = 1 at level 0 and W after; Vd >= W.
        d2t: int64 (Vd,) offset from draft id to target id, or None if they are the same.
        level: 0 … 12.
        tokens: int64 (B, C), written: target ids of the new candidates.
        scores: float32 (B, C), read and written: cumulative log-probabilities.
        parents: int32 (B, C), written: candidate indices, -1 = root.
        beam_nodes: int32 (B, levels, W), read at level - 1, written at `level`: candidate index of each beam row.
        beam_rows: int64 (B, W), written: row of the parent in the beam before.
        beam_tokens: int64 (B, W), written.
        beam_masks: int64 (B, levels, W, words), last two dimensions contiguous, read at level - 1, written at
            `level`: ancestors-or-self among the draft's own tree rows, row l * W + w being beam row w of level l.
        noise: of the B sequences and the target's vocabulary; what is missing is made. None: no noise.
        lengths: int32 (B,), positions of the roots, 0 or more; given with noise, whose position is lengths + level.
        temperature, sharpness: 1e-30 … 1e30.

    Unchecked on CUDA: that beam_nodes at level - 1 are candidates of that level; rows of the noise and lengths, of
    which the lowest 32 bits count.
    """
    given = (None,) * 4 if noise is None else (noise.noise, noise.places, noise.rows, noise.seed)
    _expand_beam(
        logits,
        d2t,
        level,
        tokens,
        scores,
        parents,
        beam_nodes,
        beam_rows,
        beam_tokens,
        beam_masks,
        *given,
        lengths,
        temperature,
        sharpness,
    )
