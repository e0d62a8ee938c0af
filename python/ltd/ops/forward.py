"""What a forward does between its products, on any device: `add_rms_norm`, `rotate_and_store`, `gated_silu`.

They round where the layers of `transformers` round. Words and errors: see `ltd.ops`.
"""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator

_add_rms_norm = operator("add_rms_norm")
_rotate_and_store = operator("rotate_and_store")
_gated_silu = operator("gated_silu")


def add_rms_norm(states: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float, normed: Tensor) -> None:
    """Adds to the residual states, in place, and norms them (Zhang and Sennrich, 2019).

    states += addend, then normed = weight * (states / sqrt(mean(states²) + epsilon)), the product in brackets rounded
    to the type before it is multiplied. Sums are float32.

    Args:
        states: (R, H) float32, float16 or bfloat16, H >= 1; written if there is an addend.
        addend: (R, H), same type; None adds nothing.
        weight: (H,), same type.
        epsilon: 0 or more.
        normed: (R, H), same type, written.
    """
    _add_rms_norm(states, addend, weight, epsilon, normed)


def rotate_and_store(
    qkv: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    epsilon: float,
    cosines: Tensor,
    sines: Tensor,
    rows: Tensor,
    lengths: Tensor,
    first_row: int,
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
) -> None:
    """Splits a joint projection into heads, turns queries and keys, and writes all to where the attention reads them.

    Rotary positions (Su et al., 2021), half-split layout; the products are rounded to the tables' type, then their sums
    to the operator's.

    Args:
        qkv: (B, N, (Hq + 2 * Hkv) * head_dim) float32, float16 or bfloat16; queries, then keys, then values. head_dim
            is even.
        query_norm, key_norm: (head_dim,), same type: weights of a norm of every head, as in `add_rms_norm`; None is
            none.
        epsilon: of these norms, 0 or more.
        cosines, sines: (any, head_dim), contiguous, of the same type or float32.
        rows: int64 (B, N), each token's row of the tables.
        lengths: int32 (B,), prefix rows; read where the operator runs.
        first_row: tree rows that are in the cache already.
        keys, values: (B, Hkv, capacity, head_dim), same type: one layer of the cache. Rows lengths[b] + first_row + n
            are written.
        queries: (B, Hq, N, head_dim), same type, written.

    Unchecked on CUDA: that 0 <= lengths[b] <= capacity - first_row - N, and rows.
    """
    _rotate_and_store(
        qkv, query_norm, key_norm, epsilon, cosines, sines, rows, lengths, first_row, keys, values, queries
    )


def gated_silu(gate_up: Tensor, active: Tensor) -> None:
    """The activation of a gated feed-forward block (Shazeer, 2020): silu(gate), rounded, times up.

    Args:
        gate_up: (R, 2 * I) float32, float16 or bfloat16, the gates first.
        active: (R, I), same type, written.
    """
    _gated_silu(gate_up, active)
