"""Networks of random weights, for timings and for tests."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def random_weights(sizes: list[int], generator: torch.Generator) -> list[Tensor]:
    """w0, b0, w1, b1, … of a network with layers of these sizes, the inputs first."""
    weights = []
    for inputs, outputs in itertools.pairwise(sizes):
        weights.append(torch.randn(outputs, inputs, generator=generator) * max(inputs, 1) ** -0.5)
        weights.append(torch.randn(outputs, generator=generator))
    return weights
