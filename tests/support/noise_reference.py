"""The noise of places in NumPy: Philox in 64-bit whole numbers and logarithms in float64."""

from __future__ import annotations

import numpy as np

NOISE_ERROR = 1.2e-6  # how far the operators' float32 noise may be from this
NOISE_STREAM = 4


def philox_words(seed: int, row: int, position: int, count: int) -> np.ndarray:
    """uint64 (count,): 32-bit words for the tokens 0 … count - 1."""
    low32 = np.uint64(2**32 - 1)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    c0, c1, c2, c3 = (np.full_like(blocks, value) for value in (position, row, 0, NOISE_STREAM))
    c2 = blocks
    k0, k1 = seed & (2**32 - 1), (seed >> 32) & (2**32 - 1)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c2 = (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0), (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & low32, first & low32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count]


def gumbel(words: np.ndarray) -> np.ndarray:
    """float64 noise of 32-bit words."""
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log(-np.log1p(-uniform))


def place_noise(seed: int, row: int, position: int, vocabulary: int) -> np.ndarray:
    """float64 (vocabulary,)."""
    return gumbel(philox_words(seed, row, position, vocabulary))
