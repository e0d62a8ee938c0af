"""Attention over a session, for layers that are not ours: writes the new rows, then reads what each token may see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ltd import ops
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache

Attention = Callable[[Tensor, Tensor, Tensor, int, KVCache, TreeBlock, float, int], Tensor]
"""attention(query, key, value, layer, cache, block, scale, window), positions already applied → (B, N, Hq, d).

query is (B, Hq, N, d), key and value are (B, Hkv, N, d): the new tokens'. window is the layer's sliding one, 0 = none.
"""


def attend_tree(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: int,
    cache: KVCache,
    block: TreeBlock,
    scale: float,
    window: int = 0,
) -> Tensor:
    """`Attention` of trees and chains by our own operator."""
    cache.write(layer, key, value, block.rows)
    rows = block.first_row + query.shape[2]
    return ops.tree_attention(
        query,
        cache.keys[layer],
        cache.values[layer],
        block.lengths,
        rows,
        block.masks,
        block.positions,
        scale,
        window,
        cache.longest(rows),
        cache.counters,
    )


def attend_in_lockstep(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: int,
    cache: KVCache,
    block: TreeBlock,
    scale: float,
    window: int = 0,
) -> Tensor:
    """`Attention` of chains behind prefixes that are all equally long, by PyTorch's own; needs no kernels of ours."""
    assert block.masks is None and block.first_row == 0
    rows, heads, count, width = query.shape
    start = cache.host_lengths[0]
    end = start + count
    cache.keys[layer, :, :, start:end], cache.values[layer, :, :, start:end] = key, value
    # One token sees a window's rows and no others, so no mask is needed.
    first = max(0, end - window) if window and count == 1 else 0
    keys, values = cache.keys[layer, :, :, first:end], cache.values[layer, :, :, first:end]
    if count == 1:
        # The query heads that share a key head become its queries, so the keys are read once and never copied.
        grouped = query.reshape(rows, keys.shape[1], -1, width)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, scale=scale)
        return mixed.reshape(rows, 1, heads, width)
    causal = start == 0 and not 0 < window < count
    mask = None if causal else _visible(start, end, window, query.device)
    mixed = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True
    )
    return mixed.transpose(1, 2)


def _visible(start: int, end: int, window: int, device: torch.device) -> Tensor:
    """bool (end - start, end): which keys the tokens at start … end - 1 see."""
    keys = torch.arange(end, device=device)
    distance = keys[start:, None] - keys
    return (distance >= 0) & (distance < (window or end))
