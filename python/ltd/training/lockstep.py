"""Batched generation in lockstep: all rows hold as many tokens, so the attention needs no mask; finished rows leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "ltd_lockstep"


class LockstepCache:
    """Keys and values (layers, rows, Hkv, capacity, d) of rows of one common length."""

    def __init__(self, model: PreTrainedModel, rows: int, capacity: int) -> None:
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, rows, heads, capacity, head_dim)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows (indices, int64), in this order."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (rows,Hq,n,d), key and value (rows,Hkv,n,d) -> (rows,n,Hq,d); n > 1 only on an empty cache."""
        count = query.size(2)
        end = self.length + count
        keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        keys[:, :, self.length :] = key
        values[:, :, self.length :] = value
        if count > 1:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=True
            )
            return mixed.transpose(1, 2)
        rows, heads, _, width = query.shape
        # The query heads that share a key head become its queries, so the keys are read once and never copied.
        grouped = query.reshape(rows, keys.size(1), -1, width)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, scale=scale)
        return mixed.reshape(rows, 1, heads, width)


def _lockstep_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, lockstep: LockstepCache, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`transformers`' attention interface; a causal mask is implied."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    return lockstep.attend(layer, query, key, value, scaling), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _lockstep_attention)


@torch.inference_mode()
def next_logits(model: PreTrainedModel, cache: LockstepCache, tokens: Tensor) -> Tensor:
    """Append tokens (rows,n) int64 to every row -> logits (rows,V) float32 of what follows.

    The model must use the attention named ATTENTION_NAME.
    """
    count = tokens.size(1)
    positions = torch.arange(cache.length, cache.length + count, device=tokens.device)[None]
    output = model(input_ids=tokens, position_ids=positions, use_cache=False, lockstep=cache, logits_to_keep=1)
    cache.length += count
    logits: Tensor = output.logits
    return logits[:, -1].float()


def sample(logits: Tensor, greedy: Tensor, generator: torch.Generator) -> Tensor:
    """logits (rows,V) float32, greedy (rows,) bool -> tokens (rows,) int64; the others are drawn at temperature 1.

    Draws by inverse CDF: one random number a row instead of one a word.
    """
    best = logits.argmax(-1)
    # Rounding may leave the last sum a little under 1, so the uniform number is scaled by that sum.
    cumulative = logits.softmax(-1).cumsum(-1)
    uniform = torch.rand(logits.size(0), 1, generator=generator).to(logits.device)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    return torch.where(greedy, best, drawn.clamp_max(logits.size(1) - 1))
