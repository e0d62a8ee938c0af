"""A draft head on the CPU engine: one operator call per draft step, one to fuse features."""

from __future__ import annotations

from torch import Tensor

from ltd import ops
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import DTYPES, RotaryTable, pack_layers, take_stack


class HeadEngine:
    """Takes over the weights of a head's linear layers.

    Args:
        head: on the CPU, in float32 or bfloat16, not `norm_output`; see `supports`.
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
        self.residual_is_normed = head.config.norm_before_residual
        self.table = RotaryTable(layer.self_attn.rotary)

    @staticmethod
    def supports(head: Eagle3Head) -> bool:
        """Whether the engine can run this head."""
        weight = head.norm.weight
        return weight.device.type == "cpu" and weight.dtype in DTYPES and not head.config.norm_output

    def fuse(self, features: Tensor) -> Tensor:
        """The target's features (B, N, F * Ht) → states (B, N, H)."""
        return ops.linear(self.norm_features(features), self.fc, self.hidden_size)

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
        logits, _ = ops.forward_stack(
            self.weights,
            states,
            *self.table.for_capacity(cache.capacity),
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
