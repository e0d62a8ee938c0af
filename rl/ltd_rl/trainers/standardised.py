"""Networks in training on inputs brought to mean 0 and deviation 1, as the exact trainer has them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ltd.errors import InputError
from ltd_rl.traces.observations import Observer, first_asked

SPREAD = 1e-3  # least standard deviation that an input is divided by: some never change


class Standardised(nn.Module):
    """An MLP with ReLU on inputs brought to mean 0 and deviation 1, as they are over all positions and depths.

    Args:
        observer: of its observations. outputs: how many. hidden: widths of the layers between.
    """

    def __init__(self, observer: Observer, outputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.mean, self.deviation = moments(observer)
        widths = (observer.layout.width, *hidden, outputs)
        layers: list[nn.Module] = []
        for inputs, count in pairwise(widths):
            layers += [nn.Linear(inputs, count), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, observations: Tensor) -> Tensor:
        """float32 (n, width) → (n, outputs)."""
        result: Tensor = self.layers((observations - self.mean) / self.deviation)
        return result

    @torch.no_grad()
    def take(self, tensors: list[Tensor]) -> None:
        """Becomes the function with these weights on the observations as they are: the other way round.

        Raises:
            InputError: they are of another shape.
        """
        own = list(self.layers.parameters())
        if [tensor.shape for tensor in tensors] != [parameter.shape for parameter in own]:
            raise InputError("networks of other widths cannot be gone on with; train with theirs")
        given = [tensors[0] * self.deviation, tensors[1] + tensors[0] @ self.mean, *tensors[2:]]
        for parameter, tensor in zip(own, given, strict=True):
            parameter.copy_(tensor)

    def weights(self) -> tuple[Tensor, ...]:
        """w0, b0, w1, b1, … of the same function on the observations as they are."""
        tensors = [parameter.detach().clone() for parameter in self.layers.parameters()]
        tensors[0] = tensors[0] / self.deviation
        tensors[1] = tensors[1] - tensors[0] @ self.mean
        return tuple(tensors)


def moments(observer: Observer) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32 (width,), of the observations at all positions and stages."""
    outcomes, width = observer.outcomes, observer.layout.width
    sums, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    levels = range(first_asked(observer.layout), outcomes.depth + 1)
    for level in levels:
        for rows in np.array_split(np.arange(outcomes.positions), 1 + outcomes.positions // 4096):
            seen = observer.at(rows, level).double()
            sums += seen.sum(0)
            squares += seen.square().sum(0)
    count = outcomes.positions * len(levels)
    mean = sums / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), (deviation + SPREAD).float()
