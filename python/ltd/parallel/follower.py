"""Every other process: it does with its part of the model what the first one says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ltd.common.threads import set_threads
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import CacheRows, KVCache
from ltd.errors import InputError
from ltd.parallel.layers import ShardedLayers
from ltd.parallel.peers import Peers, peers_may_end
from ltd.parallel.sharding import load_sharded, put_together


class FollowingProcess:
    """`Side` of a process that is not the first.

    Args:
        peers: the processes.

    Attributes:
        layers: of every model, by the number that the first process gave it.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.layers: dict[int, ShardedLayers] = {}
        self._caches: dict[int, KVCache] = {}
        self._rows: dict[int, CacheRows] = {}
        self._offered: PreTrainedModel | None = None
        self._calls = 0

    def once(
        self,
        name: str,
        work: Callable[[], Any],
        tell: Callable[[Any], Any] = lambda result: result,
        model: PreTrainedModel | None = None,
    ) -> Any:
        """See `Side`."""
        self._calls, self._offered = self._calls + 1, model
        kind, arguments = self._obey()
        if kind == "raised":
            raise InputError(arguments[0])
        if kind != "result" or arguments[:2] != [self._calls, name]:
            raise InputError(
                f"the processes of this run do different things: here it is {name}, in the first process "
                f"{arguments[1] if kind == 'result' else 'the end'}; all must make the same calls in the same order"
            )
        return arguments[2]

    def to_the_end(self) -> int:
        """Does what the first process says until its program ends; the exit code that it tells."""
        kind, arguments = "", [0]
        while kind != "end":
            kind, arguments = self._obey()
        return int(arguments[0])

    def _obey(self) -> tuple[str, list[Any]]:
        """Does what is said, up to what is no work, which it returns."""
        while True:
            (kind, *arguments), tensors = self.peers.hear()
            if kind in ("result", "raised", "end"):
                return kind, arguments
            with peers_may_end():
                getattr(self, f"_{kind}")(*arguments, *tensors)

    # --- what can be said ---

    def _load(self, number: int, place: str, dtype: torch.dtype, threads: int | None) -> None:
        set_threads(threads)
        self.layers[number] = ShardedLayers(load_sharded(place, dtype, self.peers.count))

    def _adopt(self, number: int) -> None:
        assert self._offered is not None
        self.layers[number] = ShardedLayers(self._offered)

    def _follow(self, number: int) -> None:
        self.layers[number].follow()

    def _gather(self, number: int, layer: str) -> None:
        put_together(getattr(self.layers[number].model, layer)().weight)

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self.layers.pop(number, None)
            self._caches.pop(number, None)
            self._rows.pop(number, None)

    @torch.inference_mode()
    def _open(self, model: int, number: int, batch: int, capacity: int) -> None:
        self._caches[number] = self.layers[model].open(batch, capacity)

    @torch.inference_mode()
    def _forward(
        self,
        model: int,
        place: tuple[int, int | None, list[int]],
        chain: tuple[int, int],
        logits_to_keep: int,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        masks: Tensor | None = None,
    ) -> None:
        number, row, host_lengths = place
        cache = self._caches[number] if row is None else self._caches[number].row(row)
        cache.host_lengths = host_lengths
        self.layers[model](tokens, TreeBlock(lengths, positions, masks, *chain), cache, logits_to_keep)

    @torch.inference_mode()
    def _change(self, number: int, host_lengths: list[int], method: str, *arguments: Any) -> None:
        getattr(self._known(number, host_lengths), method)(*arguments)

    @torch.inference_mode()
    def _commit(self, number: int, lengths: Tensor, path: Tensor, gained: Tensor) -> None:
        cache = self._caches[number]
        cache.lengths.copy_(lengths)
        cache.commit(path, gained)

    @torch.inference_mode()
    def _copy_rows(self, number: int, host_lengths: list[int], row: int, count: int, copies: int) -> None:
        self._rows[copies] = self._known(number, host_lengths).copy_rows(row, count)

    @torch.inference_mode()
    def _take_rows(self, number: int, host_lengths: list[int], row: int, copies: int, count: int) -> None:
        self._known(number, host_lengths).take_rows(row, self._rows[copies], count)

    def _known(self, number: int, host_lengths: list[int]) -> KVCache:
        """A cache, with the prefixes' lengths, which the first process alone keeps up."""
        cache = self._caches[number]
        cache.host_lengths = host_lengths
        return cache
