"""The first process's part of a cache: what is done to it, all processes do to theirs."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from ltd.engine.kv_cache import CacheRows, KVCache
from ltd.parallel.leader import Leader


@dataclass(frozen=True, eq=False)
class LedRows(CacheRows):
    """`CacheRows` of which every process has its part.

    Attributes:
        number: of them, in all processes.
    """

    number: int = -1


class LeadingCache(KVCache):
    """A `KVCache` whose heads are spread over processes; this one has the lengths, and tells them with every step.

    Attributes:
        leader: tells the others.
        number: of the cache, in all processes.
        place: which of its sequences this is a view of; None is all.
    """

    leader: Leader
    number: int
    place: int | None = None

    def spread_over(self, leader: Leader, model: int) -> LeadingCache:
        """Itself, once the others have their parts of it, for the model of a number."""
        self.leader, self.number = leader, leader.new_number()
        leader.say("open", model, self.number, self.batch, self.capacity)
        weakref.finalize(self, leader.drop, self.number).atexit = False
        return self

    def row(self, index: int) -> LeadingCache:
        """See `KVCache`."""
        view = super().row(index)
        assert isinstance(view, LeadingCache)
        view.leader, view.number, view.place = self.leader, self.number, index
        return view

    def clear(self, believed: int = 0) -> None:
        """See `KVCache`."""
        self._tell("clear")
        super().clear(believed)

    def keep(self, rows: list[int]) -> None:
        """See `KVCache`."""
        self._tell("keep", rows)
        super().keep(rows)

    def refill(self, rows: list[int]) -> None:
        """See `KVCache`."""
        self._tell("refill", rows)
        super().refill(rows)

    def spread(self) -> None:
        """See `KVCache`."""
        self._tell("spread")
        super().spread()

    def copy_rows(self, row: int, count: int) -> LedRows:
        """See `KVCache`."""
        rows = super().copy_rows(row, count)
        led = LedRows(rows.keys, rows.values, self.leader.new_number())
        self.leader.say("copy_rows", self.number, self.host_lengths, row, count, led.number)
        weakref.finalize(led, self.leader.drop, led.number).atexit = False
        return led

    def take_rows(self, row: int, rows: CacheRows, count: int) -> None:
        """See `KVCache`."""
        assert isinstance(rows, LedRows)
        self.leader.say("take_rows", self.number, self.host_lengths, row, rows.number, count)
        super().take_rows(row, rows, count)

    def commit(self, path: torch.Tensor, gained: torch.Tensor) -> None:
        """See `KVCache`."""
        self.leader.say("commit", self.number, tensors=(self.lengths, path, gained))
        super().commit(path, gained)

    def _tell(self, method: str, *arguments: Any) -> None:
        self.leader.say("change", self.number, self.host_lengths, method, *arguments)
