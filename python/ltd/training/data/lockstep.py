"""The target's forwards that data is made with: many texts at a time, in lockstep, and the states of finished ones.

In lockstep all rows hold as many tokens, so that the attention needs no mask; finished rows leave. `EngineForwards`
runs the CPU engine, `ModelForwards` the layers of `transformers`, on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ltd.engine.cpu import Engine
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_linear import pack_linears

ATTENTION_NAME = "ltd_lockstep"
TOKENS_PER_FORWARD = 2048  # of finished texts in `states`, padding included


class States:
    """What training keeps of a text of n tokens.

    features (n,F*Ht): hs[k] of the feature layers; final (n,Ht): after the final norm; best (n,) int32: the most likely
    next token.
    """

    __slots__ = ("best", "features", "final")

    def __init__(self, features: Tensor, final: Tensor, best: Tensor) -> None:
        self.features, self.final, self.best = features, final, best.to(torch.int32)


class Forwards(Protocol):
    """A target that writes texts in lockstep and reads them again.

    device: where tokens must be.
    """

    device: torch.device

    @property
    def length(self) -> int:
        """Tokens that every row holds."""

    def begin(self, rows: int, capacity: int) -> None:
        """Start that many empty texts of up to `capacity` tokens."""

    def append(self, tokens: Tensor) -> Tensor:
        """Append tokens (rows,n) int64 -> logits (rows,V) of what follows."""

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; row i of the new ones was rows[i] >= i."""

    def states(self, texts: Sequence[list[int]], layers: tuple[int, ...]) -> Iterator[tuple[int, States]]:
        """The index and the states of every text, in any order."""


def open_forwards(model: PreTrainedModel) -> Forwards:
    """The fastest forwards there are; they take the model's weights over on the CPU, so that it cannot run any more."""
    if Engine.supports(model):
        return EngineForwards(model)
    if model.device.type == "cpu":
        pack_linears(model)
    return ModelForwards(model)


class EngineForwards:
    """`Forwards` of the CPU engine."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.device, self.config = model.device, model.config
        body: Any = model.model
        self.norm: nn.Module = body.norm
        self.engine = Engine(model)
        self.begin(1, 1)

    @property
    def length(self) -> int:
        return self.cache.host_lengths[0]

    def begin(self, rows: int, capacity: int) -> None:
        dtype = self.engine.weights.final_norm.dtype
        self.cache = KVCache.for_model(self.config, rows, capacity, dtype, self.device)

    @torch.inference_mode()
    def append(self, tokens: Tensor) -> Tensor:
        logits = self.engine.forward(tokens, self._chain(tokens.size(1)), self.cache, logits_to_keep=1).logits
        self.cache.advance([tokens.size(1)] * self.cache.batch)
        return logits[:, -1]

    def _chain(self, count: int) -> TreeBlock:
        lengths = self.cache.lengths
        return TreeBlock(lengths, lengths.long()[:, None] + torch.arange(count), None)

    def keep(self, rows: list[int]) -> None:
        self.cache.keep(rows)

    @torch.inference_mode()
    def states(self, texts: Sequence[list[int]], layers: tuple[int, ...]) -> Iterator[tuple[int, States]]:
        self.begin(1, max(map(len, texts), default=1))
        taps = (*layers, self.config.num_hidden_layers)
        for index, text in enumerate(texts):
            self.cache.clear()
            read = self.engine.forward(torch.tensor([text]), self._chain(len(text)), self.cache, taps=taps)
            assert read.features is not None
            features, last = read.features[0].split(
                [self.config.hidden_size * len(layers), self.config.hidden_size], dim=-1
            )
            yield index, States(features, self.norm(last), read.logits[0].max(-1).indices)


class ModelForwards:
    """`Forwards` of a `transformers` model, in its own type and on its own device."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.begin(1, 1)

    @property
    def length(self) -> int:
        return self.cache.host_lengths[0]

    def begin(self, rows: int, capacity: int) -> None:
        self.cache = KVCache.for_model(self.model.config, rows, capacity, self.dtype, self.device)

    @torch.inference_mode()
    def append(self, tokens: Tensor) -> Tensor:
        count = tokens.size(1)
        positions = torch.arange(self.length, self.length + count, device=self.device)[None]
        usual = self.model.config._attn_implementation
        self.model.config._attn_implementation = ATTENTION_NAME
        try:
            output = self.model(
                input_ids=tokens, position_ids=positions, use_cache=False, lockstep=self, logits_to_keep=1
            )
        finally:
            self.model.config._attn_implementation = usual
        self.cache.advance([count] * self.cache.batch)
        logits: Tensor = output.logits
        return logits[:, -1]

    def keep(self, rows: list[int]) -> None:
        self.cache.keep(rows)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (rows,Hq,n,d), key and value (rows,Hkv,n,d) -> (rows,n,Hq,d); n > 1 only on empty rows."""
        count = query.size(2)
        end = self.length + count
        keys, values = self.cache.keys[layer, :, :, :end], self.cache.values[layer, :, :, :end]
        keys[:, :, self.length :] = key
        values[:, :, self.length :] = value
        if count > 1:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=True
            )
            return mixed.transpose(1, 2)
        rows, heads, _, width = query.shape
        # The query heads that share a key head become its queries, so the keys are read once and never copied.
        grouped = query.reshape(rows, keys.size(1), -1, width)
        mixed = functional.scaled_dot_product_attention(grouped, keys, values, scale=scale)
        return mixed.reshape(rows, 1, heads, width)

    @torch.inference_mode()
    def states(self, texts: Sequence[list[int]], layers: tuple[int, ...]) -> Iterator[tuple[int, States]]:
        body: Any = self.model.model
        with tapped(self.model, layers) as features:
            for indices in _by_length(texts):
                tokens = nn.utils.rnn.pad_sequence([torch.tensor(texts[index]) for index in indices], batch_first=True)
                # Padding stands on the right, where causal attention keeps it out of everything that counts.
                final = body(tokens.to(self.device), use_cache=False).last_hidden_state
                for row, index in enumerate(indices):
                    count = len(texts[index])
                    best = self.model.lm_head(final[row, :count]).max(-1).indices
                    tapped_states = features()[row, :count] if layers else final.new_empty(count, 0)
                    yield index, States(tapped_states, final[row, :count], best)


def _lockstep_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, lockstep: ModelForwards, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`transformers`' attention interface; a causal mask is implied."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    return lockstep.attend(layer, query, key, value, scaling), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _lockstep_attention)


@contextmanager
def tapped(model: PreTrainedModel, layers: tuple[int, ...]) -> Iterator[Callable[[], Tensor]]:
    """While open, every forward's hs[k] of the given layers is kept; the yielded function concatenates them.

    hs[k] is the input of layer k, hs[N] the input of the final norm, so only what is asked for is held.
    """
    body: Any = model.model
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept[layer] = inputs[0]

        return hook

    points = [*body.layers, body.norm]
    handles = [points[layer].register_forward_pre_hook(keep(layer)) for layer in set(layers)]
    try:
        yield lambda: torch.cat([kept[layer] for layer in layers], dim=-1)
    finally:
        for handle in handles:
            handle.remove()


def _by_length(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """Indices of texts of similar length, at most TOKENS_PER_FORWARD tokens with padding."""
    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        if batch and len(texts[index]) * (len(batch) + 1) > TOKENS_PER_FORWARD:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
