"""`Engine`, the forward on the CPU: one operator call for all layers, over weights that are packed once.

`transformers` gives the configuration, the weights and the rotary positions; the arithmetic is
`ops.forward_stack`, which rounds where the model's own modules round and is row-exact: verifying a tree gives
bit for bit what decoding token by token gives, also in bfloat16 and float16.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd import ops
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache, narrower, windows_of_cache
from ltd.engine.packed_layers import DTYPES, PackedEmbedding, take_stack
from ltd.engine.rotary import ModelRotary
from ltd.errors import InputError
from ltd.ops.engine import StackWeights

WINDOW_OF_MODEL = ("mistral",)
"""Families whose layers read the sliding window of the configuration; those of the others hold their own, or none."""


class Engine:
    """`Forward` of a model whose weights it takes over.

    The model keeps its configuration, norms, rotary embedding and an untied token embedding; its linear layers are left
    empty, so it can no longer run by itself.

    Args:
        model: of a supported family, on the CPU, in float32, bfloat16 or float16 and evaluation mode.
        embedding: another model's to read tokens with, of the same size; None is the model's own.

    Raises:
        InputError: a model that the engine cannot run; `supports` says so beforehand.
    """

    def __init__(self, model: PreTrainedModel, embedding: nn.Embedding | PackedEmbedding | None = None) -> None:
        if not self.supports(model):
            raise InputError(
                f"the CPU engine cannot run this {model.config.model_type} model ({model.dtype} on {model.device}, "
                f"activation {model.config.hidden_act}); it needs float32, bfloat16 or float16 on the CPU and silu"
            )
        body: Any = model.model
        self.config, self.device, self.norm = model.config, model.device, body.norm
        self.weights, own = take_weights(model)
        # Prompts are read with the windows of the layers, tokens after them with what a cache keeps.
        kept = windows_of_cache(self.config)
        self.decoding = replace(self.weights, windows=tuple(map(narrower, self.weights.windows, kept)))
        self.embedding = own if embedding is None else embedding
        self.rotary = ModelRotary(body.rotary_emb, self.weights.final_norm.dtype)

    is_ours = True

    @property
    def is_row_exact(self) -> bool:
        """See `Forward`; not where a cache keeps less of the text than the layers read of a prompt."""
        return self.weights.windows == self.decoding.windows

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether the engine can run this model of a supported family."""
        config = model.config
        return model.device.type == "cpu" and model.dtype in DTYPES and config.hidden_act == "silu"

    def follow(self) -> None:
        """See `Forward`. The model's weights are ours, so nobody changes them."""

    def state(self) -> object | None:
        """See `Forward`. Nobody changes the weights; what can change are the kernels."""
        return ops.build_info()["cpu_kernels"]

    def reads_alike(self, count: int, other: int) -> bool:
        """See `Forward`."""
        return self.rotary.reads_alike(count, other)

    def open(self, batch: int, capacity: int) -> KVCache:
        """See `Forward`."""
        return KVCache.for_model(self.config, batch, capacity, self.weights.final_norm.dtype, self.device)

    def output_rows(self, ids: Tensor | None) -> Tensor:
        """(n, hidden): the output layer's rows of these n tokens; None means all."""
        weights = self.weights
        chosen = torch.arange(weights.vocabulary) if ids is None else ids
        return ops.unpack_rows(weights.lm_head, weights.vocabulary, int(self.config.hidden_size), chosen)

    def __call__(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int = 0, taps: tuple[int, ...] = ()
    ) -> Verified:
        """See `Forward`."""
        cosines, sines, rows = self.rotary.for_block(block, cache.capacity)
        logits, features = ops.forward_stack(
            self.weights if block.read_with else self.decoding,
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
            first_row=block.first_row,
        )
        return Verified(logits, features if taps else None)


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
    """The sliding window of a layer, 0 = none: what the layer reads, whatever else its configuration says."""
    holder = config if config.model_type in WINDOW_OF_MODEL else attention
    return getattr(holder, "sliding_window", None) or 0
