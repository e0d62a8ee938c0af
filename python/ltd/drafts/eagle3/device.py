"""A draft head on a GPU: its layer as the target's layers are run there, see `ltd.engine.device_layers`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ltd import ops
from ltd.common.turn_lock import TurnLock
from ltd.drafts.eagle3.head import Eagle3Head
from ltd.engine.device_layers import DTYPES, Rooms, Sizes, are_plain, run_layer, take_layer
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.rotary import RotaryTable


class HeadDeviceEngine:
    """`HeadForward` of a head whose layer's weights it takes over; `fc` and the output layer stay the head's.

    Args:
        head: on any device that has the operators, in float32, float16 or bfloat16; see `supports`.
    """

    def __init__(self, head: Eagle3Head) -> None:
        config, layer = head.config, head.layer
        self.sizes = Sizes(
            inputs=2 * config.hidden_size,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            query_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            epsilon=config.rms_norm_eps,
            scale=config.head_dim**-0.5,
        )
        self.norm_features, self.fc = head.norm_features, head.fc.weight.detach()
        self.final_norm, self.lm_head = head.norm.weight.detach(), head.lm_head.weight.detach().t()
        self.embedding_norm = layer.input_layernorm.weight.detach()
        self.residual_is_normed, self.norm_output = config.norm_before_residual, config.norm_output
        rotary, device = layer.self_attn.rotary, self.fc.device
        self.table = RotaryTable(lambda positions: rotary(positions.to(device)), holds=True)
        self.layer = take_layer(layer, layer.hidden_norm.weight)
        self.rooms = Rooms(self.sizes, self.final_norm)
        self._one_call = TurnLock()  # two calls at a time would share a room

    @staticmethod
    def supports(head: Eagle3Head) -> bool:
        """Whether the engine can run this head."""
        return are_plain(head) and head.norm.weight.dtype in DTYPES

    def fuse(self, features: Tensor) -> Tensor:
        """See `HeadForward`."""
        with torch.no_grad():
            return functional.linear(self.norm_features(features), self.fc)

    def step(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        """See `HeadForward`; the next states are written over those given."""
        with self._one_call, torch.no_grad():
            return self._run(embeddings, states, block, cache, kept)

    def _run(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        (batch, nodes, hidden), epsilon = states.shape, self.sizes.epsilon
        room, flat = self.rooms.of(batch * nodes), states.view(-1, hidden)
        embedded, normed = room.entering.split(hidden, dim=1)
        ops.add_rms_norm(embeddings.reshape(-1, hidden), None, self.embedding_norm, epsilon, embedded)
        ops.add_rms_norm(flat, None, self.layer.input_norm, epsilon, normed)
        if self.residual_is_normed:
            flat.copy_(normed)
        angles = (*self.table.for_capacity(cache.capacity), block.positions)
        run_layer(self.layer, self.sizes, flat, room, block, angles, cache, 0, window=0)
        ops.add_rms_norm(flat, room.added, self.final_norm, epsilon, room.normed)
        if self.norm_output:
            flat.copy_(room.normed)
        last = room.normed.view(batch, nodes, hidden)[:, nodes - kept :].reshape(batch * kept, hidden)
        return states, torch.mm(last, self.lm_head).view(batch, kept, self.lm_head.shape[1])
