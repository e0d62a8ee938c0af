"""The average of the weights over the last updates, which is mostly a better draft than the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

AVERAGE_EVERY = 8  # updates; each costs reading and writing all weights


class WeightAverage:
    """An exponential moving average.

    Args:
        weights: whose; they are trained elsewhere.
        updates: how far it looks back: what is so old has the share 1/e of its first weight left.
    """

    def __init__(self, weights: Sequence[Tensor], updates: float) -> None:
        self.weights = list(weights)
        self.values = [weight.detach().clone() for weight in weights]
        self.keep = max(0.0, 1 - AVERAGE_EVERY / max(AVERAGE_EVERY, updates))
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take the present weights in. The first few count more, so that the beginning is soon forgotten."""
        self.count += 1
        keep = min(self.keep, (self.count - 1) / (self.count + 9))
        torch._foreach_lerp_(self.values, self.weights, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The weights are the average while this lasts."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the two."""
        for weight, value in zip(self.weights, self.values, strict=True):
            kept = weight.clone()
            weight.copy_(value)
            value.copy_(kept)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"values": self.values, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for value, stored in zip(self.values, state["values"], strict=True):
            value.copy_(stored)
        self.count = int(state["count"])
