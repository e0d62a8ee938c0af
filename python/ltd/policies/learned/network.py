"""A policy's network: a small MLP and what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ltd.errors import InputError
from ltd.policies.learned.observation import Layout, Summary

MAX_LAYERS = 8  # as the operators take
Activation = Literal["relu", "tanh"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@dataclass(frozen=True, slots=True)
class Network:
    """A policy's network.

    Args:
        layout: of its observation, the paper's or our own.
        weights: w0, b0, w1, b1, … float32, w (outputs, inputs).
        activation: what is between the layers.

    Raises:
        InputError: weights that do not make a network that reads this observation.
    """

    layout: Layout | Summary
    weights: tuple[torch.Tensor, ...]
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation {self.activation!r} is not known; it must be one of {', '.join(ACTIVATIONS)}")
        if len(self.weights) % 2 or not 0 < len(self.weights) <= 2 * MAX_LAYERS:
            raise InputError(
                f"a network has 1 to {MAX_LAYERS} layers of a weight and a bias, not {len(self.weights)} tensors"
            )
        if any(tensor.dtype != torch.float32 or not torch.isfinite(tensor).all() for tensor in self.weights):
            raise InputError("a network's weights must be finite numbers in float32")
        inputs = self.layout.width
        for layer, (weight, bias) in enumerate(zip(self.weights[::2], self.weights[1::2], strict=True)):
            if weight.ndim != 2 or weight.shape[1] != inputs or weight.shape[0] == 0 or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"layer {layer} reads {inputs} numbers, but its weight has shape {tuple(weight.shape)} and its "
                    f"bias {tuple(bias.shape)}"
                )
            inputs = weight.shape[0]

    @property
    def uses_tanh(self) -> bool:
        """The activation, as the operators take it."""
        return self.activation == "tanh"

    @property
    def outputs(self) -> int:
        """How many actions there are."""
        return len(self.weights[-1])
