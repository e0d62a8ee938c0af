"""The target's forward on the CPU: one operator call for all layers, over weights that are packed once.

`transformers` gives the configuration, the weights and the rotary positions; the arithmetic is
`ops_engine.forward_stack`, which rounds where the model's own modules round and is row-exact: verifying a tree gives
bit for bit what decoding token by token gives, also in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd import ops_engine
from ltd.errors import InputError
from ltd.forward import TreeBlock, Verified
from ltd.kv_cache import KVCache
from ltd.ops_engine import StackWeights, empty_weights, interleave_gates, pack_linear, packed_shape

DTYPES = (torch.float32, torch.bfloat16)
# The others compute their frequencies from the longest position in a forward, so there is no table of them.
TABULAR_ROPE = ("default", "linear", "llama3", "yarn")


class PackedEmbedding(nn.Module):
    """A token embedding that reads its rows out of a packed output layer.

    Args:
        packed: the packed weight (vocabulary, hidden).
        num_embeddings: vocabulary; embedding_dim: hidden size.

    Attributes:
        weight: the packed weight.
    """

    weight: Tensor

    def __init__(self, packed: Tensor, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.register_buffer("weight", packed, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (…) → (…, hidden)."""
        return ops_engine.unpack_rows(self.weight, self.num_embeddings, self.embedding_dim, ids)


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
        with torch.no_grad():
            self.weights, self.embedding = take_weights(model)
        body: Any = model.model
        self.rotary = body.rotary_emb
        self.has_table = self.rotary.rope_type in TABULAR_ROPE
        self.table: tuple[Tensor, Tensor] | None = None

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
        logits, features = ops_engine.forward_stack(
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
        like = self.weights.final_norm
        if not self.has_table:
            cosines, sines = self.rotary(like, positions)
            rows = torch.arange(positions.numel()).view(positions.shape)
            return cosines.flatten(0, 1), sines.flatten(0, 1), rows
        if self.table is None or len(self.table[0]) < capacity:
            cosines, sines = self.rotary(like, torch.arange(capacity)[None])
            self.table = cosines[0].contiguous(), sines[0].contiguous()
        return *self.table, positions


def take_weights(model: Any) -> tuple[StackWeights, nn.Embedding | PackedEmbedding]:
    """Packs a model's linear layers and lets the originals go; the weights and the token embedding."""
    body, config = model.model, model.config
    attentions, mlps = [layer.self_attn for layer in body.layers], [layer.mlp for layer in body.layers]
    vocabulary, hidden = model.lm_head.weight.shape
    is_tied = body.embed_tokens.weight is model.lm_head.weight
    lm_head, _ = pack_layers([model], ("lm_head",))
    if is_tied:
        model.set_input_embeddings(PackedEmbedding(lm_head[0], vocabulary, hidden))
    qkv, qkv_bias = pack_layers(attentions, ("q_proj", "k_proj", "v_proj"))
    output, output_bias = pack_layers(attentions, ("o_proj",))
    gate_up, gate_up_bias = pack_layers(mlps, ("gate_proj", "up_proj"), lambda parts: interleave_gates(*parts))
    down, down_bias = pack_layers(mlps, ("down_proj",))
    weights = StackWeights(
        input_norm=stack_norms(body.layers, "input_layernorm"),
        qkv=qkv,
        qkv_bias=qkv_bias,
        query_norm=stack_norms(attentions, "q_norm") if hasattr(attentions[0], "q_norm") else None,
        key_norm=stack_norms(attentions, "k_norm") if hasattr(attentions[0], "k_norm") else None,
        output=output,
        output_bias=output_bias,
        post_norm=stack_norms(body.layers, "post_attention_layernorm"),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
        final_norm=body.norm.weight.detach(),
        lm_head=lm_head[0],
        query_heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=vocabulary,
        epsilon=config.rms_norm_eps,
        scale=attentions[0].scaling,
        windows=tuple(window_of(attention, config) for attention in attentions),
    )
    return weights, body.embed_tokens


def pack_layers(
    modules: list[Any], names: tuple[str, ...], join: Callable[[list[Tensor]], Tensor] = torch.cat
) -> tuple[Tensor, Tensor | None]:
    """Packs the linear layers `names` of every module, joined into one per module, and lets the originals go.

    Returns:
        the packed weights (modules, …), and the biases (modules, outputs) or None.
    """
    packed: Tensor | None = None
    biases = []
    for index, module in enumerate(modules):
        linears = [getattr(module, name) for name in names]
        weight = join([linear.weight for linear in linears])
        if packed is None:
            shape = packed_shape(weight.shape[0], weight.shape[1], weight.dtype)
            packed = empty_weights((len(modules), *shape), weight.dtype)
        pack_linear(weight, packed[index])
        if linears[0].bias is not None:
            biases.append(join([linear.bias for linear in linears]))
        for linear in linears:
            linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    assert packed is not None
    return packed, torch.stack(biases) if biases else None


def stack_norms(modules: Any, name: str) -> Tensor:
    """(modules, size) weights of one norm of every module."""
    return torch.stack([getattr(module, name).weight for module in modules])


def window_of(attention: nn.Module, config: Any) -> int:
    """The sliding window of a layer, 0 = none. Some families keep it in the layer, for some it is the model's."""
    holder = attention if hasattr(attention, "sliding_window") else config
    return getattr(holder, "sliding_window", None) or 0
