"""Layers of a device forward: fused weights, and the operators that run them in memory that is made once.

Serves every model whose layers are Llama's: the target's stack, and the one layer of a draft head. A layer is nine
operators: add and norm, joint projection, rotation with the cache write, attention, output projection, add and norm,
gates, activation, down projection. What a layer leaves to add to the states is added with the next norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltd import ops
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.pool import power_of_two
from ltd.errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""The types that a device forward computes in."""


@dataclass(frozen=True, slots=True)
class Product:
    """A linear layer, or several that read the same.

    Attributes:
        weight: (inputs, outputs), a view of the layer's.
        bias: (outputs,) or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, result: Tensor) -> None:
        """x (R, inputs) → result (R, outputs), written."""
        if self.bias is None:
            torch.mm(x, self.weight, out=result)
        else:
            torch.addmm(self.bias, x, self.weight, out=result)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the layers of a stack have in common.

    Attributes:
        inputs: what the joint projection reads, hidden or, in a draft head, twice that.
        hidden, intermediate, query_heads, kv_heads, head_dim: sizes.
        epsilon: of all norms.
        scale: of attention scores.
    """

    inputs: int
    hidden: int
    intermediate: int
    query_heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    scale: float


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a layer.

    Attributes:
        input_norm, post_norm: (hidden,).
        query_norm, key_norm: (head_dim,) or None.
        qkv: queries, keys, values; gate_up: gates, then the others.
    """

    input_norm: Tensor
    qkv: Product
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Product
    post_norm: Tensor
    gate_up: Product
    down: Product


class Room:
    """What stands between the operators of a layer, for so many rows.

    Attributes:
        states, normed: (R, hidden).
        entering: (R, inputs), what enters the attention, normed.
        qkv: (R, (Hq + 2 * Hkv) * head_dim).
        queries: (R, Hq * head_dim).
        added: (R, hidden), what is still to be added to the states.
        gate_up: (R, 2 * intermediate); active: (R, intermediate).
    """

    def __init__(self, sizes: Sizes, rows: int, like: Tensor) -> None:
        heads, width = sizes.query_heads + 2 * sizes.kv_heads, sizes.head_dim

        def make(columns: int) -> Tensor:
            return like.new_empty(rows, columns)

        self.states, self.normed, self.added = (make(sizes.hidden) for _ in range(3))
        self.entering = make(sizes.inputs)
        self.qkv, self.queries = make(heads * width), make(sizes.query_heads * width)
        self.gate_up, self.active = make(2 * sizes.intermediate), make(sizes.intermediate)

    def first(self, rows: int) -> Room:
        """Views of the first rows."""
        part = object.__new__(Room)
        for name, tensor in vars(self).items():
            setattr(part, name, tensor[:rows])
        return part


class Rooms:
    """Room for any number of rows, made when a number first asks, and never let go: captured graphs go on using it.

    Numbers up to the next power of two share one.

    Args:
        sizes: of the layers.
        like: a tensor of the activations' type and device.
    """

    def __init__(self, sizes: Sizes, like: Tensor) -> None:
        self.sizes, self.like = sizes, like
        self._made: dict[int, Room] = {}
        self._parts: dict[int, Room] = {}

    def of(self, rows: int) -> Room:
        """Room for so many rows; what is in it is whatever was there."""
        if rows not in self._parts:
            made = power_of_two(rows)
            if made not in self._made:
                with torch.inference_mode(False):  # who asks first may be in inference mode, and the next not
                    self._made[made] = Room(self.sizes, made, self.like)
            self._parts[rows] = self._made[made].first(rows)
        return self._parts[rows]


def run_layer(
    layer: Layer,
    sizes: Sizes,
    states: Tensor,
    room: Room,
    block: TreeBlock,
    angles: tuple[Tensor, Tensor, Tensor],
    cache: KVCache,
    index: int,
    window: int,
) -> None:
    """From what enters the attention, `room.entering`, to what is to be added to the states then, `room.added`.

    Args:
        layer, sizes: its weights and sizes.
        states: (B * N, hidden), the residual; written.
        room: for B * N rows.
        block: the rows' places.
        angles: cosines and sines (any, head_dim), and each token's row (B, N) of them.
        cache: read and written; index: the layer's place in it.
        window: the sliding one, 0 = none.
    """
    batch, nodes = block.positions.shape
    cosines, sines, rows = angles
    keys, values = cache.keys[index], cache.values[index]
    queries = room.queries.view(batch, nodes, sizes.query_heads, sizes.head_dim).transpose(1, 2)
    layer.qkv(room.entering, room.qkv)
    ops.rotate_and_store(
        room.qkv.view(batch, nodes, -1),
        layer.query_norm,
        layer.key_norm,
        sizes.epsilon,
        cosines,
        sines,
        rows,
        block.lengths,
        block.first_row,
        keys,
        values,
        queries,
    )
    tree_rows = block.first_row + nodes
    mixed = ops.tree_attention(
        queries,
        keys,
        values,
        block.lengths,
        tree_rows,
        block.masks,
        block.positions,
        sizes.scale,
        window,
        cache.longest(tree_rows),
        cache.counters,
    )
    layer.output(mixed.view(batch * nodes, -1), room.added)
    ops.add_rms_norm(states, room.added, layer.post_norm, sizes.epsilon, room.normed)
    layer.gate_up(room.normed, room.gate_up)
    ops.gated_silu(room.gate_up, room.active)
    layer.down(room.active, room.added)


@torch.no_grad()
def take_layer(layer: Any, input_norm: Tensor) -> Layer:
    """Fuses the weights of a Llama-like layer, with `self_attn`, `mlp` and norms, and lets the originals go.

    Args:
        layer: the module.
        input_norm: (hidden,), weights of the norm of the state that enters the attention.
    """
    attention, mlp = layer.self_attn, layer.mlp

    def head_norm(name: str) -> Tensor | None:
        return getattr(attention, name).weight.detach() if hasattr(attention, name) else None

    return Layer(
        input_norm=input_norm.detach(),
        qkv=take_product(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=head_norm("q_norm"),
        key_norm=head_norm("k_norm"),
        output=take_product(attention.o_proj),
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=take_product(mlp.gate_proj, mlp.up_proj),
        down=take_product(mlp.down_proj),
    )


@torch.no_grad()
def take_product(*linears: nn.Linear) -> Product:
    """One product in the place of linear layers that read the same; their own weights are let go."""
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases = [linear.bias for linear in linears]
    weight = weights[0].detach() if len(weights) == 1 else torch.cat(weights)
    given: list[Tensor] = [bias for bias in biases if bias is not None]
    if given and len(given) != len(biases):
        raise InputError("some of a model's query, key and value layers have a bias and some have none")
    for linear in linears:
        linear.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return Product(weight.t(), torch.cat(given).detach() if given else None)


def are_plain(module: nn.Module) -> bool:
    """Whether all linear layers in a module are PyTorch's own, on one device and of one type."""
    parts = [part for part in module.modules() if isinstance(part, nn.Linear)]
    kinds = {(part.weight.device, part.weight.dtype) for part in parts}
    return len(kinds) == 1 and all(type(part) is nn.Linear for part in parts)
