"""The least time that a forward can take on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ltd.engine.cpu import Engine
from ltd.engine.kv_cache import key_value_sizes
from timing import time_in_turns

PRODUCT_SIDES = (1024, 2048, 3072)  # of the square matrices whose product shows how fast this machine multiplies


@dataclass(frozen=True, slots=True)
class Work:
    """What a forward has to read and to compute.

    Attributes:
        weight_bytes: read once, however many tokens.
        weight_count: one multiplication and one addition each, per token.
        attention_count: the same, per pair of a token and one that it sees, in all layers together.
    """

    weight_bytes: int
    weight_count: int
    attention_count: int

    @classmethod
    def of(cls, engine: Engine) -> Work:
        """The work of an engine's forwards; the embedding, of which only some rows are read, does not count."""
        weights, config = engine.weights, engine.config
        parts = (weights.qkv, weights.output, weights.gate_up, weights.down, weights.lm_head)
        _, head_dim = key_value_sizes(config)
        return cls(
            weight_bytes=sum(part.numel() * part.element_size() for part in parts),
            weight_count=sum(part.numel() for part in parts),
            # Once for the scores, once for the sum of the values.
            attention_count=2 * config.num_hidden_layers * config.num_attention_heads * head_dim,
        )

    def operations(self, count: int, prefix: int) -> int:
        """Floating-point operations of a chain of `count` tokens behind a prefix, with logits for all of them."""
        pairs = count * prefix + count * (count + 1) // 2
        return 2 * (self.weight_count * count + self.attention_count * pairs)


@dataclass(frozen=True, slots=True)
class Floor:
    """What this machine does at best.

    Attributes:
        work: the forward's.
        read_seconds: for reading as much memory as the weights are.
        operations_per_second: of the best large product of matrices.
    """

    work: Work
    read_seconds: float
    operations_per_second: float

    @classmethod
    def measure(cls, work: Work, dtype: torch.dtype, repeats: int) -> Floor:
        """The best of all repeats, on torch's threads, with matrices of this type."""
        memory = torch.ones(work.weight_bytes // 8, dtype=torch.int64)
        squares = [torch.randn(side, side).to(dtype) for side in PRODUCT_SIDES]
        products = [lambda square=square: torch.mm(square, square) for square in squares]
        reading, *multiplying = time_in_turns([memory.sum, *products], range(repeats))
        rates = [2 * side**3 / min(times) for side, times in zip(PRODUCT_SIDES, multiplying, strict=True)]
        return cls(work, min(reading), max(rates))

    def seconds(self, count: int, prefix: int) -> float:
        """The longer one of reading the weights once and of the arithmetic of `count` tokens behind a prefix."""
        return max(self.read_seconds, self.work.operations(count, prefix) / self.operations_per_second)

    def __str__(self) -> str:
        megabytes, rate = self.work.weight_bytes / 1e6, self.work.weight_bytes / self.read_seconds / 1e9
        return (
            f"floor: reading {megabytes:.0f} MB of weights in {self.read_seconds * 1e3:.1f} ms ({rate:.1f} GB/s), "
            f"or arithmetic at {self.operations_per_second / 1e9:.0f} GFLOP/s, the best product of matrices"
        )
