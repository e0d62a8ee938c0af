"""The target's forward on the CPU: one operator call for all layers, over weights that are packed once.

`transformers` gives the configuration, the weights and the rotary positions; the arithmetic is
`ops.forward_stack`, which rounds where the model's own modules round and is row-exact: verifying a tree gives
bit for bit what decoding token by token gives, also in bfloat16.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd import ops
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import DTYPES, PackedEmbedding, RotaryTable, take_stack
from ltd.errors import InputError
from ltd.ops.engine import StackWeights

# The others compute their frequencies from the longest position in a forward, so there is no table of them.
TABULAR_ROPE = ("default", "linear", "llama3", "yarn")


class Engine:
    """Takes a model's weights over and runs its forward.

    The model keeps its configuration, norms, rotary embedding and an untied token embedding; its linear layers are left
    empty, so it can no longer run by itself.

    Args:
        model: of a supported family, on the CPU, in float32 or bfloat16 and evaluation mode.

    Raises:
        InputError: a model that the engine cannot run; `supports` says so beforehand.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if not self.supports(model):
            raise InputError(
                f"the CPU engine cannot run this {model.config.model_type} model ({model.dtype} on {model.device}, "
                f"activation {model.config.hidden_act}); it needs float32 or bfloat16 on the CPU and silu"
            )
        self.weights, self.embedding = take_weights(model)
        rotary: Any = model.model.rotary_emb
        self.rotary = partial(rotary, self.weights.final_norm)  # which only tells the type wanted
        self.table = RotaryTable(self.rotary) if rotary.rope_type in TABULAR_ROPE else None

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether the engine can run this model of a supported family."""
        config = model.config
        return model.device.type == "cpu" and model.dtype in DTYPES and config.hidden_act == "silu"

    def forward(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int = 0, taps: tuple[int, ...] = ()
    ) -> Verified:
        """One forward over a tree or a chain behind each sequence's prefix; writes its rows, does not advance.

        Args:
            tokens: int64 (B, N).
            block: their places.
            cache: read and written.
            logits_to_keep: only the last so many tokens get logits; 0 = all.
            taps: hidden states wanted, as indices k of hs[k].
        """
        cosines, sines, rows = self._rotary(block.positions, cache.capacity)
        logits, features = ops.forward_stack(
            self.weights,
            self.embedding(tokens),
            cosines,
            sines,
            rows,
            cache.keys,
            cache.values,
            block.lengths,
            block.masks,
            block.positions,
            taps,
            min(logits_to_keep or tokens.shape[1], tokens.shape[1]),
        )
        return Verified(logits, features if taps else None)

    def _rotary(self, positions: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines and sines (any, head_dim), and each token's row (B, N) of them."""
        if self.table is not None:
            return *self.table.for_capacity(capacity), positions
        cosines, sines = self.rotary(positions)
        rows = torch.arange(positions.numel()).view(positions.shape)
        return cosines.flatten(0, 1), sines.flatten(0, 1), rows


def take_weights(model: Any) -> tuple[StackWeights, nn.Embedding | PackedEmbedding]:
    """Packs a model's linear layers and lets the originals go; the weights and the token embedding."""
    body = model.model
    attentions = [layer.self_attn for layer in body.layers]
    is_tied = body.embed_tokens.weight is model.lm_head.weight
    weights = take_stack(
        model,
        body.layers,
        body.norm.weight,
        input_norm="input_layernorm",
        scale=attentions[0].scaling,
        windows=tuple(window_of(attention, model.config) for attention in attentions),
    )
    if is_tied:
        hidden = body.embed_tokens.embedding_dim
        model.set_input_embeddings(PackedEmbedding(weights.lm_head, weights.vocabulary, hidden))
    return weights, body.embed_tokens


def window_of(attention: nn.Module, config: Any) -> int:
    """The sliding window of a layer, 0 = none. Some families keep it in the layer, for some it is the model's."""
    holder = attention if hasattr(attention, "sliding_window") else config
    return getattr(holder, "sliding_window", None) or 0
