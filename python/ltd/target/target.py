"""The model being accelerated: a `transformers` causal LM that checks a whole tree in one forward.

On the CPU an `Engine` runs the layers. Elsewhere, and for models whose weights must stay as they are, `transformers`
does; then this file gives it a cache that is allocated once (`KVCache`), attention under the tree's mask through the
attention interface (`ops.tree_attention`), and hooks that tap the hidden states the draft reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache
from ltd.errors import InputError
from ltd.target.model import FAMILIES
from ltd.target.transformers_layers import ATTENTION, CacheForTransformers, attend_tree
from ltd.tree import TreeNodes

if TYPE_CHECKING:
    from ltd.engine.cpu import Engine
    from ltd.engine.packed_layers import PackedEmbedding

PREFILL_CHUNK = 512


AttentionInterface.register(ATTENTION, attend_tree)


class Target:
    """A causal LM with its own cache, ready to check trees.

    Args:
        model: a model of a supported family, in evaluation mode.
        feature_layers: which hidden states to tap, as indices k of hs[k] = the input of layer k (hs[layers] = the last
            layer's output before the final norm), low to high.
        engine: the model's weights, packed; it then runs the layers instead of `transformers`.

    Raises:
        InputError: an unsupported family, or a layer index out of range.
    """

    def __init__(
        self, model: PreTrainedModel, feature_layers: tuple[int, ...] = (), engine: Engine | None = None
    ) -> None:
        self.model, self.config, self.engine = model, model.config, engine
        if self.config.model_type not in FAMILIES:
            raise InputError(
                f"a {self.config.model_type!r} model cannot be a target; use one of the families {', '.join(FAMILIES)}"
            )
        layers = self.config.num_hidden_layers
        if any(not 0 <= index <= layers for index in feature_layers):
            raise InputError(
                f"the draft reads hidden states {feature_layers}, but this target has only 0 … {layers}; "
                "use a head trained for this target"
            )
        self.feature_layers = feature_layers
        self.cache: KVCache | None = None
        self.is_tapping = False
        self.taps: dict[int, torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its activations."""
        return self.embedding.weight.dtype

    @property
    def embedding(self) -> nn.Embedding | PackedEmbedding:
        """The token embedding, which drafts may share."""
        embedding: Any = self.model.get_input_embeddings()
        return embedding  # type: ignore[no-any-return]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.config.vocab_size)

    @property
    def context_limit(self) -> int:
        """The longest sequence, prompt and answer together, that the model was made for."""
        return int(self.config.max_position_embeddings)

    @contextlib.contextmanager
    def session(self, batch: int, capacity: int, tap: bool = True) -> Iterator[None]:
        """Gives the model an empty cache, tree attention and the taps; takes the latter two away again at the end.

        Args:
            batch: sequences B.
            capacity: rows per sequence, the largest tree included.
            tap: whether to tap the hidden states.
        """
        if self.cache is None or not self.cache.fits(batch, capacity):
            self.cache = None  # let the old one go first
            self.cache = KVCache.for_model(self.config, batch, capacity, self.dtype, self.device)
        self.cache.clear()
        self.is_tapping = tap
        if self.engine is not None:
            yield
            return
        usual_attention = self.config._attn_implementation
        self.config._attn_implementation = ATTENTION
        hooks = [self._tap(index) for index in self.feature_layers] if tap else []
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.taps.clear()
            self.config._attn_implementation = usual_attention

    def _tap(self, index: int) -> torch.utils.hooks.RemovableHandle:
        body: Any = self.model.model
        layer: nn.Module = body.norm if index == self.config.num_hidden_layers else body.layers[index]

        def keep_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.taps[index] = args[0] if args else kwargs["hidden_states"]

        return layer.register_forward_pre_hook(keep_input, with_kwargs=True)

    @property
    def lengths(self) -> torch.Tensor:
        """int32 (B,): committed tokens per sequence."""
        assert self.cache is not None
        return self.cache.lengths

    def prefill(self, row: int, token_ids: torch.Tensor) -> Verified:
        """Reads a prompt into the cache of one sequence, chunk by chunk.

        Args:
            row: which sequence.
            token_ids: int64 (n,), n >= 1.

        Returns:
            logits (1, 1, vocabulary) after the last token, and features (1, n, F * hidden) of all of them.
        """
        assert self.cache is not None
        cache, features = self.cache.row(row), []
        for chunk in token_ids[None].split(PREFILL_CHUNK, dim=1):
            count = chunk.shape[1]
            positions = cache.lengths.long()[:, None] + torch.arange(count, device=chunk.device)
            verified = self._forward(cache, chunk, TreeBlock(cache.lengths, positions, None), logits_to_keep=1)
            cache.advance([count])
            if verified.features is not None:
                features.append(verified.features)
        self.cache.advance_row(row, len(token_ids))
        return Verified(verified.logits, torch.cat(features, dim=1) if features else None)

    def verify(self, nodes: TreeNodes) -> Verified:
        """One forward over a tree (root first), behind each sequence's prefix."""
        assert self.cache is not None
        block = TreeBlock(self.cache.lengths, nodes.positions, nodes.masks)
        return self._forward(self.cache, nodes.tokens, block, logits_to_keep=0)

    def commit(
        self, path: torch.Tensor, gained: torch.Tensor, counts: list[int], verified: Verified
    ) -> torch.Tensor | None:
        """Makes the accepted nodes part of the prefix.

        Args:
            path: int32 (B, P), accepted nodes, root first; gained: int32 (B,), how many count; counts: the same on the
            host.
            verified: what the forward over their tree said.

        Returns:
            their features (B, max(counts), F * hidden); None if nothing is tapped.
        """
        assert self.cache is not None
        self.cache.commit(path, gained, counts)
        if verified.features is None:
            return None
        nodes = path[:, : max(counts), None].long()
        return verified.features.gather(1, nodes.expand(-1, -1, verified.features.shape[2]))

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        assert self.cache is not None
        self.cache.keep(rows)

    def _forward(self, cache: KVCache, tokens: torch.Tensor, block: TreeBlock, logits_to_keep: int) -> Verified:
        if self.engine is not None:
            return self.engine.forward(
                tokens, block, cache, logits_to_keep, self.feature_layers if self.is_tapping else ()
            )
        output = self.model(
            input_ids=tokens,
            position_ids=block.positions,
            past_key_values=CacheForTransformers(cache),
            use_cache=True,
            logits_to_keep=logits_to_keep,
            tree_block=block,
        )
        taps = [self.taps[index] for index in self.feature_layers] if self.taps else []
        return Verified(output.logits, torch.cat(taps, dim=-1) if taps else None)
