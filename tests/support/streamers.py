"""Streamers, as `generate` of `transformers` takes them."""

from __future__ import annotations

from typing import Any

import torch


class Recorder:
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.said.append(value.tolist())

    def end(self) -> None:
        self.said.append("end")
