"""What the CPU engine makes of a model's transformer layers: packed weights.

Serves every model whose layers are Llama's: the target's stack, and the one layer of a draft head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltd import ops
from ltd.ops.engine import StackWeights, empty_weights, interleave_gates, pack_linear, packed_shape

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""The types that the engine computes in."""


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
        return ops.unpack_rows(self.weight, self.num_embeddings, self.embedding_dim, ids)


@torch.no_grad()
def take_stack(
    model: Any, layers: Sequence[Any], final_norm: Tensor, *, input_norm: str, scale: float, windows: tuple[int, ...]
) -> StackWeights:
    """Packs the linear layers of a model's stack and its output layer, and lets the originals go.

    Args:
        model: has the `config` and the `lm_head`.
        layers: Llama-like, with `self_attn`, `mlp` and their norms.
        final_norm: (hidden,), the weights of the norm behind them.
        input_norm: the layers' name for the norm of the state that enters the attention.
        scale: of attention scores.
        windows: sliding window of every layer, 0 = none.
    """
    config, vocabulary = model.config, len(model.lm_head.weight)
    attentions, mlps = [layer.self_attn for layer in layers], [layer.mlp for layer in layers]
    qkv, qkv_bias = pack_layers(attentions, ("q_proj", "k_proj", "v_proj"))
    output, output_bias = pack_layers(attentions, ("o_proj",))
    gate_up, gate_up_bias = pack_layers(mlps, ("gate_proj", "up_proj"), lambda parts: interleave_gates(*parts))
    down, down_bias = pack_layers(mlps, ("down_proj",))
    lm_head, _ = pack_layers([model], ("lm_head",))
    return StackWeights(
        input_norm=stack_norms(layers, input_norm),
        qkv=qkv,
        qkv_bias=qkv_bias,
        query_norm=stack_norms(attentions, "q_norm") if hasattr(attentions[0], "q_norm") else None,
        key_norm=stack_norms(attentions, "k_norm") if hasattr(attentions[0], "k_norm") else None,
        output=output,
        output_bias=output_bias,
        post_norm=stack_norms(layers, "post_attention_layernorm"),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
        final_norm=final_norm.detach(),
        lm_head=lm_head[0],
        query_heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=vocabulary,
        epsilon=config.rms_norm_eps,
        scale=scale,
        windows=windows,
    )


@torch.no_grad()
def pack_layers(
    modules: Sequence[Any], names: tuple[str, ...], join: Callable[[list[Tensor]], Tensor] = torch.cat
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


def stack_norms(modules: Sequence[Any], name: str) -> Tensor:
    """(modules, size) weights of one norm of every module."""
    return torch.stack([getattr(module, name).weight for module in modules])
