"""A draft head on the CPU engine: one operator call per draft step, one to fuse features."""

from __future__ import annotations

import torch
from torch import Tensor

from ltd import ops
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import DTYPES, pack_layers, take_stack
from ltd.engine.rotary import RotaryTable


class HeadEngine:
    """`HeadForward` of a head whose linear layers' weights it takes over.

    Args:
        head: on the CPU, in float32, bfloat16 or float16; see `supports`.
    """

    def __init__(self, head: Eagle3Head) -> None:
        layer = head.layer
        fc, _ = pack_layers([head], ("fc",))
        self.weights = take_stack(
            head,
            [layer],
            head.norm.weight,
            input_norm="hidden_norm",
            scale=head.config.head_dim**-0.5,
            windows=(0,),
        )
        self.fc, self.hidden_size, self.norm_features = fc[0], head.config.hidden_size, head.norm_features
        self.embedding_norm = layer.input_layernorm.weight.detach()[None]
        self.residual_is_normed, self.norm_output = head.config.norm_before_residual, head.config.norm_output
        self.table = RotaryTable(layer.self_attn.rotary)

    @staticmethod
    def supports(head: Eagle3Head) -> bool:
        """Whether the engine can run this head."""
        weight = head.norm.weight
        return weight.device.type == "cpu" and weight.dtype in DTYPES

    def fuse(self, features: Tensor) -> Tensor:
        """See `HeadForward`."""
        return ops.linear(self.norm_features(features), self.fc, self.hidden_size)

    def step(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        """See `HeadForward`; the next states are written over those given."""
        logits, _ = ops.forward_stack(
            self.weights,
            states,
            *self.table.for_capacity(cache.capacity),
            block.positions,
            cache.keys,
            cache.values,
            block.lengths,
            block.masks,
            block.positions,
            (),
            kept,
            embeddings=embeddings,
            embedding_norm=self.embedding_norm,
            residual_is_normed=self.residual_is_normed,
            first_row=block.first_row,
        )
        if self.norm_output:
            flat, weights = states.view(-1, self.hidden_size), self.weights
            normed = torch.empty_like(flat)
            ops.add_rms_norm(flat, None, weights.final_norm, weights.epsilon, normed)
            flat.copy_(normed)
        return states, logits
