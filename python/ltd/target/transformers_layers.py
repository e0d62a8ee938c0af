"""The layers of `transformers` over our cache and our tree attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from ltd import ops
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache

if TYPE_CHECKING:
    pass

ATTENTION = "ltd_tree"


class CacheForTransformers(Cache):
    """Lets the model's attention layers write into a `KVCache` and read all of it."""

    def __init__(self, cache: KVCache) -> None:
        super().__init__(layers=[])
        self.cache = cache

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one layer's new rows as tree rows; returns that layer's whole buffers (B, Hkv, capacity, head_dim)."""
        self.cache.write(layer_idx, key_states, value_states)
        return self.cache.keys[layer_idx], self.cache.values[layer_idx]


def attend_tree(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    tree_block: TreeBlock,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`transformers` attention function: (B, Hq, N, d) queries → (B, N, Hq, d), over prefix and tree rows."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    output = ops.tree_attention(
        query,
        key,
        value,
        tree_block.lengths,
        query.shape[2],
        tree_block.masks,
        tree_block.positions,
        scale,
        sliding_window or 0,
    )
    return output, None
