"""The ways to sample with chains, by name."""

from __future__ import annotations

from ltd.errors import InputError

RESIDUAL, NOISE = "residual", "noise"
SAMPLERS = (RESIDUAL, NOISE)


def check_sampler(sampler: str) -> str:
    """The name itself, or InputError if there is no such sampler."""
    if sampler not in SAMPLERS:
        raise InputError(f"there is no sampler {sampler!r} of chains; there are {', '.join(SAMPLERS)}")
    return sampler
