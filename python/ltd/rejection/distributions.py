"""Distributions of target and draft, and the numbers that are drawn from them.

In NumPy: PyTorch's threads would spin on beside the engine's, see `ltd.chains.noise_sampling`. In float32: rounding
changes the law of a token by less than 1e-6 for each child that is looked at. A probability in q that is too small for
float32 is 0, and that changes nothing: a child with such a token is not looked at, and any other child has the law of
the rest of q.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Floats, Integers
from ltd.decoding.acceptance import Sampling

BITS = 53  # of a float64's fraction: numbers below 1 that are multiples of 2 ** -BITS are exact


def as_array(logits: torch.Tensor) -> NDArray[Any]:
    """Logits in the same memory; those in bfloat16, which NumPy lacks, as their 16 bits."""
    if logits.dtype == torch.bfloat16:
        return logits.view(torch.int16).numpy().view(np.uint16)
    found: NDArray[Any] = logits.numpy()
    return found


def floats(array: NDArray[Any]) -> Floats:
    """What `as_array` returned, in float32; a copy."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def softmax(logits: Floats, temperature: float) -> Floats | None:
    """float32 (n,): the softmax of logits / temperature, in their memory; None where they are not finite.

    That is where they hold NaN or +inf, or only -inf.
    """
    peak = logits.max()
    if not np.isfinite(peak):
        return None
    logits -= peak
    with np.errstate(over="ignore"):  # what is very far behind is at -inf
        logits *= np.float32(1.0 / temperature)
    np.exp(logits, out=logits)
    logits /= logits.sum()
    return logits


def target_distribution(logits: Floats, sampling: Sampling) -> Floats | None:
    """What the target draws from, float32 (vocabulary,): after temperature, top-k and top-p, as for `accept_sample`.

    Args:
        logits: (vocabulary,), the target's; overwritten.
        sampling: at a temperature above 0.

    Returns:
        None where the logits hold NaN or +inf, or only -inf.
    """
    behind = None
    if 0 < sampling.top_k < len(logits):
        behind = logits < np.partition(logits, -sampling.top_k)[-sampling.top_k]
    p = softmax(logits, sampling.temperature)
    if p is None:
        return None
    if behind is not None:
        p[behind] = 0.0
        p /= p.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-p, kind="stable")
        better = np.cumsum(p[order], dtype=np.float64) - p[order]
        p[order[better >= sampling.top_p]] = 0.0
        p /= p.sum()
    return p


def draft_distribution(logits: Floats, words: Integers | None, vocabulary: int, temperature: float) -> Floats | None:
    """What the draft's candidates are drawn from, float32 (vocabulary,), by the target's ids.

    The temperature alone applies to it: candidates that the target's top-k and top-p exclude are rejected.

    Args:
        logits: (Vd,), the draft's, overwritten; NaN counts as -inf, as it does for `expand_beam`.
        words: (Vd,), the target's ids of the draft's; None if they are the same.
        vocabulary: the target's; all others have the probability 0.
        temperature: above 0.

    Returns:
        None where the logits hold +inf, or nothing finite.
    """
    if np.isnan(logits.max()):
        logits[np.isnan(logits)] = -np.inf
    q = softmax(logits, temperature)
    if q is None:
        return None
    spread = np.zeros(vocabulary, dtype=np.float32)
    spread[slice(len(q)) if words is None else words] = q
    return spread


def uniforms(seed: int, row: int, position: int, count: int) -> Doubles:
    """float64 (count,), 0 <= u < 1: what is decided at a place with, independent of its noise.

    They are Philox4x64-10's, keyed by the seed, with the counter (block, position, row, 0), blocks from 1 on.

    Args:
        seed: 0 … 2^63 - 1.
        row: the sequence's number in its call.
        position: of the last token known.
        count: how many.
    """
    words = np.random.Philox(key=seed, counter=[0, position, row, 0]).random_raw(count)
    numbers: Doubles = (words >> np.uint64(64 - BITS)) * 2.0**-BITS
    return numbers


def draw(p: Floats, uniform: float) -> int:
    """The token that a number 0 <= u < 1 stands for: one with p > 0, and each for a share p / Σ p of the numbers."""
    sums = np.cumsum(p, dtype=np.float64)
    return int(np.searchsorted(sums, uniform * sums[-1], side="right"))
