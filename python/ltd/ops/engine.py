"""The engine's operators, typed and documented. CPU only; float32, bfloat16 and float16.

A packed weight (outputs, inputs) is a tensor (blocks, steps, elements): 32 outputs make a block; a step is one float32
input or a pair of shorter inputs for all of them, 128 bytes. In bfloat16 an output's pair stands side by side, in
float16 the first inputs of all outputs stand before the second ones. What is missing at the ends is zero.

Raises, all of them:
    InputError: a tensor of the wrong shape, type, device or layout, or a number out of range; the message names it and
        gives the values.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from ltd.ops.library import operator

BLOCK_OUTPUTS = 32
STEP_BYTES = 128
GATE_GROUP = BLOCK_OUTPUTS // 2
LARGE_PAGE = 1 << 21

_pack_linear = operator("pack_linear")
_unpack_rows = operator("unpack_rows")
_linear = operator("linear")
_forward_stack = operator("forward_stack")


@dataclass(frozen=True, slots=True)
class StackWeights:
    """All weights of a Llama-like model but its token embedding, in the model's type, stacked over the layers.

    Attributes:
        input_norm, post_norm: (layers, hidden); final_norm: (hidden,).
        qkv: packed (layers, …) weights (query heads, key heads, value heads; hidden).
        output: packed (layers, …) weights (hidden, query heads).
        gate_up: packed (layers, …) weights of 16 gates, 16 ups, 16 gates and so on; see `interleave_gates`.
        down: packed (layers, …) weights (hidden, intermediate).
        lm_head: packed weight (vocabulary, hidden).
        qkv_bias, output_bias, gate_up_bias, down_bias: (layers, outputs), or None.
        query_norm, key_norm: (layers, head_dim), or None.
        query_heads, intermediate, vocabulary: sizes; epsilon: of the norms; scale: of attention scores.
        windows: sliding window of every layer, 0 = none.
    """

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    post_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    final_norm: Tensor
    lm_head: Tensor
    query_heads: int
    intermediate: int
    vocabulary: int
    epsilon: float
    scale: float
    windows: tuple[int, ...]


def packed_shape(outputs: int, inputs: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Shape of the packed form of a weight (outputs, inputs)."""
    width = STEP_BYTES // BLOCK_OUTPUTS // dtype.itemsize
    return -(-outputs // BLOCK_OUTPUTS), -(-inputs // width), BLOCK_OUTPUTS * width


def empty_weights(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Fresh memory for weights, in large pages where the system has them: they are read faster than many small ones."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE_PAGE // 4 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    pages = -(-size // LARGE_PAGE) + 1  # one more, to begin where a page does
    memory = mmap.mmap(-1, pages * LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % LARGE_PAGE
    return whole[start : start + size].view(dtype).view(shape)


def interleave_gates(gate: Tensor, up: Tensor) -> Tensor:
    """(intermediate, …) gates and ups in alternating groups of 16, so that a block holds both of an output."""
    pad = -len(gate) % GATE_GROUP
    padded = [torch.cat([part, part.new_zeros(pad, *part.shape[1:])]) if pad else part for part in (gate, up)]
    groups = [part.unflatten(0, (-1, GATE_GROUP)) for part in padded]
    return torch.stack(groups, dim=1).flatten(0, 2)


def pack_linear(weight: Tensor, packed: Tensor) -> None:
    """Packs a weight.

    Args:
        weight: (outputs, inputs) float32, bfloat16 or float16.
        packed: of shape `packed_shape(outputs, inputs, dtype)`, written.
    """
    _pack_linear(weight, packed)


def unpack_rows(packed: Tensor, outputs: int, inputs: int, ids: Tensor) -> Tensor:
    """Rows of a packed weight (outputs, inputs): int64 ids (…) → (…, inputs)."""
    rows: Tensor = _unpack_rows(packed, outputs, inputs, ids)
    return rows


def linear(x: Tensor, packed: Tensor, outputs: int) -> Tensor:
    """x (…, inputs) times a packed weight (outputs, inputs) → (…, outputs), in their type; row-exact."""
    result: Tensor = _linear(x, packed, outputs)
    return result


def forward_stack(
    weights: StackWeights,
    states: Tensor,
    cosines: Tensor,
    sines: Tensor,
    rotary_rows: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    masks: Tensor | None,
    positions: Tensor,
    taps: tuple[int, ...],
    kept: int,
    *,
    embeddings: Tensor | None = None,
    embedding_norm: Tensor | None = None,
    residual_is_normed: bool = False,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:
    """All layers, the final norm and the output layer over a tree or a chain behind each sequence's prefix.

    Row-exact: a row's logits, states, keys and values are the same bit for bit whatever other rows are computed with
    it, as long as it sees the same keys in the same order. What it does not see may be infinite or NaN.

    Args:
        weights: the model.
        states: (B, N, hidden), contiguous: the embeddings; overwritten with the last layer's output.
        cosines, sines: (any, head_dim), contiguous: rotary tables, in the model's type or float32.
        rotary_rows: int64 (B, N), each token's row of them.
        keys, values: (layers, B, Hkv, capacity, head_dim), rows lengths[b] … lengths[b] + N - 1 written.
        lengths: int32 (B,), prefix rows.
        masks: int64 (B, N, words), bit j: the token sees token j; None for a chain.
        positions: int64 (B, N).
        taps: layers whose input states are wanted, the number of layers for the last one's output.
        kept: how many of the last tokens of each sequence get logits.
        embeddings, embedding_norm: (B, N, hidden) and (layers, hidden): a draft head's projections read the norms of
            embedding and state, side by side.
        residual_is_normed: the head adds to the norm of its state instead of the state.
        first_row: tree rows that the cache holds already behind the prefix; the new ones follow them, and masks speak
            of all. With masks only, and without windows.

    Returns:
        logits (B, kept, vocabulary) and features (B, N, taps * hidden), side by side in the order of `taps`.
    """
    w = weights
    logits, features = _forward_stack(
        *(states, w.input_norm, w.qkv, w.qkv_bias, w.query_norm, w.key_norm, w.output, w.output_bias, w.post_norm),
        *(w.gate_up, w.gate_up_bias, w.down, w.down_bias, w.final_norm, w.lm_head),
        *(w.query_heads, w.intermediate, w.vocabulary, w.epsilon, w.scale),
        *(cosines, sines, rotary_rows, keys, values, lengths, masks, positions, w.windows, taps, kept),
        *(embeddings, embedding_norm, residual_is_normed, first_row),
    )
    return logits, features
