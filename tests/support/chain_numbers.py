"""The random numbers of chains, by cycle, position and use."""

from __future__ import annotations

from operator_reference import philox4x32_10

TARGET, DRAFT, ACCEPTANCE, RESIDUAL = range(4)  # the uses of random numbers


def number(seed: int, cycle: int, position: int, use: int) -> float:
    """The number in [0, 1) that decides about the token at position + 1."""
    low32, drawn = 2**32 - 1, position + 1
    words = philox4x32_10((drawn & low32, drawn >> 32, cycle, use), (seed & low32, (seed >> 32) & low32))
    return (((words[0] << 32) | words[1]) >> 11) / 2**53
