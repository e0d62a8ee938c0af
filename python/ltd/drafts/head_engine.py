"""A draft head on the CPU engine: one operator call per draft step, one to fuse features."""

from __future__ import annotations

import torch
from torch import Tensor

from ltd import ops_engine
from ltd.drafts.head import Eagle3Head
from ltd.engine import DTYPES, pack_layers
from ltd.kv_cache import KVCache
from ltd.ops_engine import StackWeights, interleave_gates


class HeadEngine:
    """Takes over the weights of a head's linear layers.

    Args:
        head: on the CPU, in float32 or bfloat16, not `norm_output`; see `supports`.
    """

    def __init__(self, head: Eagle3Head) -> None:
        layer, config = head.layer, head.config
        attention, mlp = layer.self_attn, layer.mlp
        with torch.no_grad():
            lm_head, _ = pack_layers([head], ("lm_head",))
            qkv, qkv_bias = pack_layers([attention], ("q_proj", "k_proj", "v_proj"))
            output, output_bias = pack_layers([attention], ("o_proj",))
            gate_up, _ = pack_layers([mlp], ("gate_proj", "up_proj"), lambda parts: interleave_gates(*parts))
            down, _ = pack_layers([mlp], ("down_proj",))
            fc, _ = pack_layers([head], ("fc",))
        self.weights = StackWeights(
            input_norm=layer.hidden_norm.weight.detach()[None],
            qkv=qkv,
            qkv_bias=qkv_bias,
            query_norm=None,
            key_norm=None,
            output=output,
            output_bias=output_bias,
            post_norm=layer.post_attention_layernorm.weight.detach()[None],
            gate_up=gate_up,
            gate_up_bias=None,
            down=down,
            down_bias=None,
            final_norm=head.norm.weight.detach(),
            lm_head=lm_head[0],
            query_heads=config.num_attention_heads,
            intermediate=config.intermediate_size,
            vocabulary=config.draft_vocab_size,
            epsilon=config.rms_norm_eps,
            scale=config.head_dim**-0.5,
            windows=(0,),
        )
        self.fc, self.hidden_size, self.norm_features = fc[0], config.hidden_size, head.norm_features
        self.embedding_norm = layer.input_layernorm.weight.detach()[None]
        self.residual_is_normed = config.norm_before_residual
        self.rotary = attention.rotary
        self.table: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def supports(head: Eagle3Head) -> bool:
        """Whether the engine can run this head."""
        weight = head.norm.weight
        return weight.device.type == "cpu" and weight.dtype in DTYPES and not head.config.norm_output

    def fuse(self, features: Tensor) -> Tensor:
        """The target's features (B, N, F * Ht) → states (B, N, H)."""
        return ops_engine.linear(self.norm_features(features), self.fc, self.hidden_size)

    def step(
        self,
        embeddings: Tensor,
        states: Tensor,
        positions: Tensor,
        cache: KVCache,
        masks: Tensor | None,
        first_row: int,
        kept: int,
    ) -> tuple[Tensor, Tensor]:
        """One draft step, behind each sequence's prefix and `first_row` tree rows; writes its rows, does not advance.

        Args:
            embeddings: (B, N, H) of the token after each state's.
            states: (B, N, H), contiguous; overwritten with the next ones.
            positions: int64 (B, N), of the states.
            cache: of one layer.
            masks: int64 (B, N, words), over all tree rows, or None for a chain.
            first_row: tree rows in the cache already.
            kept: how many of the last rows get logits.

        Returns:
            the next states (B, N, H), the same tensor, and logits (B, kept, Vd).
        """
        if self.table is None or len(self.table[0]) < cache.capacity:
            cosines, sines = self.rotary(torch.arange(cache.capacity)[None])
            self.table = cosines[0, 0].contiguous(), sines[0, 0].contiguous()
        logits, _ = ops_engine.forward_stack(
            self.weights,
            states,
            *self.table,
            positions,
            cache.keys,
            cache.values,
            cache.lengths,
            masks,
            positions,
            (),
            kept,
            embeddings=embeddings,
            embedding_norm=self.embedding_norm,
            residual_is_normed=self.residual_is_normed,
            first_row=first_row,
        )
        return states, logits
