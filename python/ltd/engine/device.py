"""`DeviceEngine`, the forward on a GPU: fused weights and about nine launches a layer, in memory that is made once.

`transformers` gives the configuration, the weights and the rotary positions. Lengths are read on the device alone, so a
forward that is captured in a graph can be replayed behind any prefix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd import ops
from ltd.common.turn_lock import TurnLock
from ltd.engine.cpu import window_of
from ltd.engine.device_layers import DTYPES, Rooms, Sizes, are_plain, run_layer, take_layer
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache, key_value_sizes, narrower, windows_of_cache
from ltd.engine.rotary import ModelRotary
from ltd.errors import InputError


class DeviceEngine:
    """`Forward` of a model whose weights it takes over.

    The model keeps its configuration, embedding, norms, rotary embedding and output layer; its other linear layers are
    left empty, so it can no longer run by itself. It runs on any device that has the operators: a GPU, and, for tests,
    the CPU, which has a faster engine of its own.

    Args:
        model: of a supported family, on one device, in float32, float16 or bfloat16 and evaluation mode.

    Raises:
        InputError: a model that the engine cannot run; `supports` says so beforehand.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if not self.supports(model):
            raise InputError(
                f"the device engine cannot run this {model.config.model_type} model ({model.dtype} on {model.device}, "
                f"activation {model.config.hidden_act}); it needs silu and plain float32, float16 or bfloat16 weights "
                "on one device"
            )
        whole: Any = model
        body = whole.model
        self.config, self.device, self.norm = model.config, model.device, body.norm
        self.embedding: nn.Embedding = body.embed_tokens
        self.lm_head = whole.lm_head.weight.detach().t()
        attentions = [layer.self_attn for layer in body.layers]
        self.windows = tuple(window_of(attention, self.config) for attention in attentions)
        # Prompts are read with the windows of the layers, tokens after them with what a cache keeps.
        self.decoding_windows = tuple(map(narrower, self.windows, windows_of_cache(self.config)))
        kv_heads, head_dim = key_value_sizes(self.config)
        self.sizes = Sizes(
            inputs=self.config.hidden_size,
            hidden=self.config.hidden_size,
            intermediate=self.config.intermediate_size,
            query_heads=self.config.num_attention_heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            epsilon=self.config.rms_norm_eps,
            scale=attentions[0].scaling,
        )
        self.rotary = ModelRotary(body.rotary_emb, model.dtype)
        self.layers = [take_layer(layer, layer.input_layernorm.weight) for layer in body.layers]
        self.rooms = Rooms(self.sizes, self.embedding.weight.detach())
        self._one_call = TurnLock()  # two calls at a time would share a room

    is_ours = True
    is_row_exact = False  # the kernels of a product depend on how many rows there are

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether the engine can run this model of a supported family."""
        plain = are_plain(model) and type(model.get_input_embeddings()) is nn.Embedding
        return plain and model.dtype in DTYPES and model.config.hidden_act == "silu"

    def follow(self) -> None:
        """See `Forward`. The model's weights are ours, so nobody changes them."""

    def state(self) -> object | None:
        """See `Forward`. Always the same, as nobody changes the weights."""
        return True

    def reads_alike(self, count: int, other: int) -> bool:
        """See `Forward`."""
        return self.rotary.reads_alike(count, other)

    def open(self, batch: int, capacity: int) -> KVCache:
        """See `Forward`."""
        return KVCache.for_model(self.config, batch, capacity, self.embedding.weight.dtype, self.device)

    def __call__(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int = 0, taps: tuple[int, ...] = ()
    ) -> Verified:
        """See `Forward`."""
        with self._one_call, torch.no_grad():
            return self._run(tokens, block, cache, logits_to_keep, taps)

    def _run(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int, taps: tuple[int, ...]
    ) -> Verified:
        (batch, nodes), sizes = tokens.shape, self.sizes
        room = self.rooms.of(batch * nodes)
        angles = self.rotary.for_block(block, cache.capacity)
        windows = self.windows if block.read_with else self.decoding_windows
        tapped = room.states.new_empty(batch, nodes, len(taps) * sizes.hidden) if taps else None
        parts = () if tapped is None else tapped.view(batch * nodes, -1).split(sizes.hidden, dim=1)

        def enter(layer: int, addend: Tensor | None, norm: Tensor) -> None:
            """Makes the states hs[layer], keeps them where they are tapped, and norms them."""
            ops.add_rms_norm(room.states, addend, norm, sizes.epsilon, room.entering)
            for part, tap in zip(parts, taps, strict=True):
                if tap == layer:
                    part.copy_(room.states)

        torch.index_select(self.embedding.weight, 0, tokens.reshape(-1), out=room.states)
        added = None
        for index, (layer, window) in enumerate(zip(self.layers, windows, strict=True)):
            enter(index, added, layer.input_norm)
            run_layer(layer, sizes, room.states, room, block, angles, cache, index, window)
            added = room.added
        enter(len(self.layers), added, self.norm.weight)
        kept = min(logits_to_keep or nodes, nodes)
        last = room.entering.view(batch, nodes, -1)[:, nodes - kept :].reshape(batch * kept, -1)
        return Verified(torch.mm(last, self.lm_head).view(batch, kept, self.lm_head.shape[1]), tapped)
