"""The least time that writing in lockstep can take on this machine, to say how near it is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltd import ops
from ltd.engine.kv_cache import key_value_sizes
from ltd.ops.engine import pack_linear, packed_shape

SIDE, DEVICE_SIDE = 1024, 4096  # of the square matrices whose product shows how fast a processor or a GPU multiplies
READ_BYTES = 2**28  # more than caches hold
REPEATS = 3


@dataclass(frozen=True, slots=True)
class MachineRates:
    """The best that was measured: bytes read and floating-point operations of a product of matrices, per second."""

    read: float
    multiply: float


@dataclass(frozen=True, slots=True)
class LockstepFloor:
    """What a target's forwards have to read and to compute, and how fast this machine does both.

    Attributes:
        rates: the machine's.
        layer_weights: of the linear layers, once per token.
        output_weights: of the output layer, once per row and forward.
        attention_weights: multiplications per pair of a token and one that it sees.
        cached_bytes: keys and values of one token.
        weight_bytes: of all weights, once per forward.
    """

    rates: MachineRates
    layer_weights: int
    output_weights: int
    attention_weights: int
    cached_bytes: int
    weight_bytes: int

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype, rates: MachineRates) -> LockstepFloor:
        """For a target with this `transformers` config, of a supported family, and this type of weights."""
        kv_heads, width = key_value_sizes(config)
        heads, hidden, layers = config.num_attention_heads, config.hidden_size, config.num_hidden_layers
        attention = (2 * heads + 2 * kv_heads) * width * hidden
        layer_weights = layers * (attention + 3 * hidden * config.intermediate_size)
        output_weights = hidden * config.vocab_size
        return cls(
            rates,
            layer_weights=layer_weights,
            output_weights=output_weights,
            attention_weights=2 * layers * heads * width,
            cached_bytes=2 * layers * kv_heads * width * dtype.itemsize,
            weight_bytes=(layer_weights + output_weights) * dtype.itemsize,
        )

    def seconds(self, rows: int, count: int, prefix: int) -> float:
        """A forward of `count` tokens behind `prefix` ones, in every row: the longer one of reading and arithmetic."""
        pairs = rows * (count * prefix + count * (count + 1) // 2)
        products = rows * (count * self.layer_weights + self.output_weights) + pairs * self.attention_weights
        read = self.weight_bytes + rows * (prefix + count) * self.cached_bytes
        return max(2 * products / self.rates.multiply, read / self.rates.read)


@functools.cache
def machine_rates(device: torch.device, dtype: torch.dtype) -> MachineRates:
    """Measures for about a second, on torch's threads, once in a process."""
    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64, device=device)
    read = READ_BYTES / _best_seconds(numbers.sum, device)
    side = SIDE if device.type == "cpu" else DEVICE_SIDE
    seconds = min(_best_seconds(product, device) for product in _products(side, device, dtype))
    return MachineRates(read, 2 * side**3 / seconds)


def _products(side: int, device: torch.device, dtype: torch.dtype) -> Iterator[Callable[[], Tensor]]:
    """Ways to multiply two square matrices in this type or a more exact one."""
    for kind in {dtype, torch.float32}:
        matrix = torch.randn(side, side, device=device).to(kind)
        yield lambda m=matrix: m @ m  # type: ignore[misc]
    if device.type == "cpu":
        matrix = torch.randn(side, side).to(dtype)
        packed = torch.empty(packed_shape(side, side, dtype), dtype=dtype)
        pack_linear(matrix, packed)
        yield lambda: ops.linear(matrix, packed, side)


def _best_seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first warms up
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return best


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.cuda.synchronize(device)
