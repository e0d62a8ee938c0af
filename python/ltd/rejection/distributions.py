"""Distributions of target and draft in float64, and the numbers that are drawn from them.

In NumPy: PyTorch's threads would spin on beside the engine's, see `ltd.chains.noise_sampling`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltd.common.arrays import Doubles, Integers
from ltd.decoding.acceptance import Sampling

BITS = 53  # of a float64's fraction: numbers below 1 that are multiples of 2 ** -BITS are exact


def as_array(logits: torch.Tensor) -> NDArray[Any]:
    """Logits in the same memory; those in bfloat16, which NumPy lacks, as their 16 bits."""
    if logits.dtype == torch.bfloat16:
        return logits.view(torch.int16).numpy().view(np.uint16)
    found: NDArray[Any] = logits.numpy()
    return found


def doubles(array: NDArray[Any]) -> Doubles:
    """What `as_array` returned, in float64."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def softmax(logits: Doubles, temperature: float) -> Doubles | None:
    """float64 (n,): the softmax of logits / temperature; None where they hold NaN or +inf, or only -inf."""
    peak = logits.max()
    if not np.isfinite(peak):
        return None
    weights = np.exp((logits - peak) / temperature)
    found: Doubles = weights / weights.sum()
    return found


def target_distribution(logits: Doubles, sampling: Sampling) -> Doubles | None:
    """What the target draws from, float64 (vocabulary,): after temperature, top-k and top-p, as for `accept_sample`.

    Args:
        logits: (vocabulary,), the target's.
        sampling: at a temperature above 0.

    Returns:
        None where the logits hold NaN or +inf, or only -inf.
    """
    p = softmax(logits, sampling.temperature)
    if p is None:
        return None
    if 0 < sampling.top_k < len(p):
        p[logits < np.partition(logits, -sampling.top_k)[-sampling.top_k]] = 0.0
        p /= p.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-p, kind="stable")
        better = np.cumsum(p[order]) - p[order]
        p[order[better >= sampling.top_p]] = 0.0
        p /= p.sum()
    return p


def draft_distribution(logits: Doubles, words: Integers | None, vocabulary: int, temperature: float) -> Doubles | None:
    """What the draft's candidates are drawn from, float64 (vocabulary,), by the target's ids.

    The temperature alone applies to it: candidates that the target's top-k and top-p exclude are rejected.

    Args:
        logits: (Vd,), the draft's; NaN counts as -inf, as it does for `expand_beam`.
        words: (Vd,), the target's ids of the draft's; None if they are the same.
        vocabulary: the target's; all others have the probability 0.
        temperature: above 0.

    Returns:
        None where the logits hold +inf, or nothing finite.
    """
    q = softmax(np.where(np.isnan(logits), -np.inf, logits), temperature)
    if q is None:
        return None
    spread = np.zeros(vocabulary)
    spread[slice(len(q)) if words is None else words] = q
    return spread


def uniforms(seed: int, row: int, position: int, count: int) -> Doubles:
    """float64 (count,), 0 <= u < 1: what is decided at a place with, independent of its noise.

    They are Philox4x64-10's, keyed by the seed, with the counter (block, position, row, 0).

    Args:
        seed: 0 … 2^63 - 1.
        row: the sequence's number in its call.
        position: of the last token known.
        count: how many.
    """
    words = np.random.Philox(key=seed, counter=[0, position, row, 0]).random_raw(count)
    return (words >> np.uint64(64 - BITS)) * 2.0**-BITS


def draw(p: Doubles, uniform: float) -> int:
    """The token that a number 0 <= u < 1 stands for: one with p > 0, and each for a share p / Σ p of the numbers."""
    sums = np.cumsum(p)
    return int(np.searchsorted(sums, uniform * sums[-1], side="right"))
