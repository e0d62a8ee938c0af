"""The layers of `transformers` over a process's part of a model, alone and as the first process runs them with others.

`transformers` adds up and gathers what the parts come to, inside its layers, so that hidden states and logits are whole
in every process.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ltd.engine.attention import Attention, attend_tree
from ltd.engine.forward import TreeBlock, Verified
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import PackedEmbedding
from ltd.parallel.cache import LeadingCache
from ltd.parallel.leader import Leader
from ltd.parallel.sharding import local_cache_sizes, put_together
from ltd.target.transformers_layers import TransformersLayers


class ShardedLayers(TransformersLayers):
    """A process's part of a model, and of its keys and values. A call is a part of all processes' call.

    Args:
        model: that `transformers` has spread over processes.

    Raises:
        InputError: it was spread in a way that leaves no whole heads.
    """

    kind_of_cache: type[KVCache] = KVCache

    def __init__(self, model: PreTrainedModel, attention: Attention = attend_tree) -> None:
        self.cache_sizes = local_cache_sizes(model)
        super().__init__(model, attention)

    def open(self, batch: int, capacity: int) -> KVCache:
        """See `Forward`."""
        super().follow()
        kv_heads, head_dim = self.cache_sizes
        weight = super().embedding.weight
        layers = int(self.config.num_hidden_layers)
        return self.kind_of_cache(layers, batch, kv_heads, capacity, head_dim, weight.dtype, self.device)


class LeadingLayers(ShardedLayers):
    """`Forward` of the first process: with its own part it runs everybody's.

    Args:
        model: its part.
        leader: tells the others.
    """

    kind_of_cache = LeadingCache

    def __init__(self, model: PreTrainedModel, leader: Leader) -> None:
        self.leader, self.number = leader, leader.number_of(model)
        self._embedding: nn.Embedding | None = None
        self._part: Tensor | None = None
        super().__init__(model)

    @property
    def embedding(self) -> nn.Embedding | PackedEmbedding:
        """See `Forward`. It is whole, for drafts, which only this process runs."""
        part: Tensor = super().embedding.weight
        whole = self._embedding
        if whole is None or part is not self._part or part.dtype != whole.weight.dtype:
            whole = frozen(self._gathered("get_input_embeddings", part))
            self._part, self._embedding = part, whole
        return whole

    def get_output_embeddings(self) -> nn.Embedding:
        """The output layer, whole, as far as its `weight`; for drafts that have none of their own."""
        layer: Any = self.model.get_output_embeddings()
        return frozen(self._gathered("get_output_embeddings", layer.weight))

    def follow(self) -> None:
        """See `Forward`."""
        self.leader.say("follow", self.number)
        super().follow()

    def open(self, batch: int, capacity: int) -> KVCache:
        """See `Forward`."""
        cache = super().open(batch, capacity)
        assert isinstance(cache, LeadingCache)
        return cache.spread_over(self.leader, self.number)

    def __call__(
        self, tokens: Tensor, block: TreeBlock, cache: KVCache, logits_to_keep: int = 0, taps: tuple[int, ...] = ()
    ) -> Verified:
        """See `Forward`."""
        assert isinstance(cache, LeadingCache)
        tensors = [tokens, block.lengths, block.positions, *([] if block.masks is None else [block.masks])]
        place = (cache.number, cache.place, cache.host_lengths)
        self.leader.say(
            "forward", self.number, place, (block.first_row, block.read_with), logits_to_keep, tensors=tensors
        )
        with self.leader.in_step():
            return super().__call__(tokens, block, cache, logits_to_keep, taps)

    def _gathered(self, layer: str, weight: Tensor) -> Tensor:
        self.leader.say("gather", self.number, layer)
        with self.leader.in_step():
            return put_together(weight)


def frozen(weight: Tensor) -> nn.Embedding:
    """A layer over a weight (vocabulary, hidden)."""
    layer: nn.Embedding = nn.Embedding.from_pretrained(weight)
    return layer
