"""The least time that a forward can take on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import torch_products
from ltd import ops
from ltd.common.json_files import parse_json
from ltd.engine.cpu import Engine
from ltd.engine.kv_cache import key_value_sizes
from ltd.ops.engine import BLOCK_OUTPUTS, empty_weights, pack_linear, packed_shape
from timing import time_in_turns
from torch_products import best_rate, torch_rate

PRODUCT_SIDES = (1024, 2048, 3072)  # of the square matrices whose product shows how fast this machine multiplies
READ_INPUTS = 1024  # of a linear layer whose weights are read
# Where PyTorch's products of a short type are slower than those of float32, by far: without instructions for it.
UNPACKING = {
    "bfloat16": ("baseline", "avx2"),
    "float16": ("baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16"),
}
# What keeps oneDNN and MKL to an instruction set; nothing does for the widest.
LIMITS = {
    "baseline": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx512_bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "amx_bf16": {},
}


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
        return cls(work, read_seconds(work.weight_bytes, dtype, repeats), multiply_rate(dtype, repeats))

    def arithmetic_seconds(self, count: int, prefix: int) -> float:
        """The arithmetic of `count` tokens behind a prefix."""
        return self.work.operations(count, prefix) / self.operations_per_second

    def seconds(self, count: int, prefix: int) -> float:
        """The longer one of reading the weights once and of the arithmetic."""
        return max(self.read_seconds, self.arithmetic_seconds(count, prefix))

    def __str__(self) -> str:
        megabytes, rate = self.work.weight_bytes / 1e6, self.work.weight_bytes / self.read_seconds / 1e9
        return (
            f"floor: reading {megabytes:.0f} MB of weights in {self.read_seconds * 1e3:.1f} ms ({rate:.1f} GB/s), "
            f"or arithmetic at {self.operations_per_second / 1e9:.0f} GFLOP/s, the best product of matrices"
        )


def read_seconds(size: int, dtype: torch.dtype, repeats: int) -> float:
    """Seconds for reading so many bytes: by a sum, or by a linear layer of one row, whichever is faster."""
    step_bytes = packed_shape(BLOCK_OUTPUTS, READ_INPUTS, dtype)[1] * BLOCK_OUTPUTS * 4
    outputs = size // step_bytes * BLOCK_OUTPUTS
    weights = empty_weights(packed_shape(outputs, READ_INPUTS, dtype), dtype).fill_(1)
    row, numbers = torch.ones(1, READ_INPUTS, dtype=dtype), weights.view(torch.int64)
    return min(map(min, time_in_turns([numbers.sum, lambda: ops.linear(row, weights, outputs)], range(repeats))))


def engine_rate(dtype: torch.dtype, repeats: int) -> float:
    """Operations per second of the engine's best large product, with the kernels in use."""
    products: dict[int, Callable[[], object]] = {}
    for side in PRODUCT_SIDES:
        matrix = torch.randn(side, side).to(dtype)
        packed = torch.empty(packed_shape(side, side, dtype), dtype=dtype)
        pack_linear(matrix, packed)
        products[side] = lambda m=matrix, p=packed, n=side: ops.linear(m, p, n)
    return best_rate(products, repeats)


def multiply_rate(dtype: torch.dtype, repeats: int) -> float:
    """Operations per second of the best large product, PyTorch's or the engine's."""
    return max(torch_rate(dtype, repeats, PRODUCT_SIDES), engine_rate(dtype, repeats))


def limited_torch_rates(isa: str, wanted: Sequence[str], threads: int, repeats: int) -> dict[str, float]:
    """What PyTorch's best products reach where it may use no more than an instruction set of the engine's, by type.

    Types in which it cannot reach what it does in float32 are left out.
    """
    dtypes = [name for name in wanted if isa not in UNPACKING.get(name, ())]
    settings = {"dtypes": ",".join(dtypes), "sides": ",".join(map(str, PRODUCT_SIDES))}
    settings |= {"threads": str(threads), "repeats": str(repeats)}
    command = [sys.executable, torch_products.__file__, *(f"--{name}={value}" for name, value in settings.items())]
    done = subprocess.run(command, env=os.environ | LIMITS[isa], stdout=subprocess.PIPE, text=True, check=True)
    return parse_json(done.stdout, dict[str, float], "what torch_products.py printed")
