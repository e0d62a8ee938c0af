"""The layers of `transformers` over our cache: `TransformersLayers`, the forward of models that must stay as they are.

`transformers` hands the arguments that it does not know on to its attention, and so every call brings its own. Which
attention a model calls is said in its configuration, for all that run it; so it is a twin that runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ltd.common.turn_lock import TurnLock
from ltd.engine.attention import Attention, attend_tree
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache, narrower, windows_of_cache
from ltd.engine.packed_layers import PackedEmbedding
from ltd.engine.rotary import ModelRotary
from ltd.errors import InputError
from ltd.target.fingerprint import fingerprint
from ltd.target.twin import twin_of

ATTENTION = "ltd"


class TransformersLayers:
    """`Forward` of a `transformers` model, in its own type and on its own device.

    Args:
        model: of a supported family, in evaluation mode.
        attention: of its layers.
    """

    def __init__(self, model: PreTrainedModel, attention: Attention = attend_tree) -> None:
        self.model, self.attention = model, attention
        self._one_call = TurnLock()  # two calls at a time would tap each other's states
        self.follow()

    is_ours = False
    is_row_exact = False

    @property
    def config(self) -> Any:
        """See `Forward`."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """See `Forward`."""
        return self.model.device

    @property
    def embedding(self) -> nn.Embedding | PackedEmbedding:
        """See `Forward`."""
        embedding: Any = self.model.get_input_embeddings()
        return embedding  # type: ignore[no-any-return]

    @property
    def norm(self) -> nn.Module:
        """See `Forward`."""
        body: Any = self.model.model
        norm: nn.Module = body.norm
        return norm

    def follow(self) -> None:
        """See `Forward`."""
        body: Any = self.model.model
        self.rotary, self.kept = ModelRotary(body.rotary_emb, self.model.dtype), windows_of_cache(self.config)
        self._twin: PreTrainedModel | None = None

    def state(self) -> object | None:
        """See `Forward`: the model as it is now, and how torch computes."""
        model = fingerprint(self.model)
        return None if model is None else (model, torch.get_num_threads(), torch.get_float32_matmul_precision())

    def reads_alike(self, count: int, other: int) -> bool:
        """See `Forward`."""
        return self.rotary.reads_alike(count, other)

    def open(self, batch: int, capacity: int) -> KVCache:
        """See `Forward`."""
        self.follow()
        return KVCache.for_model(self.config, batch, capacity, self.embedding.weight.dtype, self.device)

    def __call__(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int = 0, taps: tuple[int, ...] = ()
    ) -> Verified:
        """See `Forward`.

        Raises:
            InputError: the model does not call the attention that its configuration names once in every layer.
        """
        called: list[int] = []

        def attend(query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float, window: int) -> Tensor:
            called.append(layer)
            seen = window if block.read_with else narrower(window, self.kept[layer])
            return self.attention(query, key, value, layer, cache, block, scale, seen)

        twin = self._twin
        if twin is None:
            twin = self._twin = twin_of(self.model, ATTENTION)
        with self._one_call, tapped(twin, taps) as features:
            output = self._given_rotary(twin, block, cache)(
                input_ids=tokens,
                position_ids=block.positions,
                use_cache=False,
                logits_to_keep=logits_to_keep,
                ltd_attend=attend,
            )
            check_called(called, int(self.config.num_hidden_layers))
            return Verified(output.logits, features() if taps else None)

    def _given_rotary(self, twin: Any, block: TreeBlock, cache: KVCache) -> Any:
        """The twin; where its rotary positions depend on more than a token's own, a shallow copy that is given them."""
        if not self.rotary.depends_on_text:
            return twin
        cosines, sines, rows = self.rotary.for_block(block, cache.capacity)
        model, body = shallow_copy(twin), shallow_copy(twin.model)
        body.rotary_emb, model.model = GivenRotary(cosines[rows], sines[rows]), body
        return model


def check_called(layers: list[int], count: int) -> None:
    """Raises InputError unless our attention was called in each of the model's layers, in order."""
    if layers != list(range(count)):
        raise InputError(
            f"this model's layers called the attention that its configuration names {len(layers)} times instead of "
            f"once in each of its {count} layers; its forward or its attention was replaced, so it cannot check trees"
        )


class GivenRotary(nn.Module):
    """In place of a model's rotary module: answers what it was given, cosines and sines (B, N, head_dim)."""

    def __init__(self, cosines: Tensor, sines: Tensor) -> None:
        super().__init__()
        self.given = cosines, sines

    def forward(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self.given


def shallow_copy(module: Any) -> Any:
    """A module with the same parts, some of which can be exchanged without changing the original."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, ltd_attend: Callable[..., Tensor], sliding_window: int | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`transformers`' attention interface: (B, Hq, N, d) queries → (B, N, Hq, d), by what the call brought."""
    return ltd_attend(query, key, value, module.layer_idx, scaling, sliding_window or 0), None


AttentionInterface.register(ATTENTION, _attend)


@contextmanager
def tapped(model: PreTrainedModel, layers: tuple[int, ...]) -> Iterator[Callable[[], Tensor]]:
    """While open, every forward's hs[k] of the given layers is kept; the yielded function concatenates them.

    hs[k] is the input of layer k, hs[layers] the input of the final norm, so only what is asked for is held.
    """
    body: Any = model.model
    kept: dict[int, Tensor] = {}

    def keep(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept[layer] = args[0] if args else kwargs["hidden_states"]

    points = [*body.layers, body.norm]
    handles = [points[layer].register_forward_pre_hook(partial(keep, layer), with_kwargs=True) for layer in set(layers)]
    try:
        yield lambda: torch.cat([kept[layer] for layer in layers], dim=-1)
    finally:
        for handle in handles:
            handle.remove()
