"""Networks of random weights, for timings and for tests."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def random_weights(sizes: list[int], generator: torch.Generator) -> list[Tensor]:
    """w0, b0, w1, b1, … of a network with layers of these sizes, the inputs first; on the generator's device."""
    weights, place = [], generator.device
    for inputs, outputs in itertools.pairwise(sizes):
        weights.append(torch.randn(outputs, inputs, generator=generator, device=place) * max(inputs, 1) ** -0.5)
        weights.append(torch.randn(outputs, generator=generator, device=place))
    return weights
