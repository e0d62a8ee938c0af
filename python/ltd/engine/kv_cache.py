"""A key/value cache of fixed capacity whose tree rows become prefix rows in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from ltd import ops
from ltd.errors import InputError

ROUND_ROWS_TO = 256
CUTS = (512, 2048, 8192, 32768)
"""Rows that attention has blocks for on a GPU, in order, and beyond them a cache's capacity.

Each is four times the one before, since the parts of a cycle are recorded for all of them that a text grows through,
and splits that find nothing to do end at once.
"""


def key_value_sizes(config: Any) -> tuple[int, int]:
    """Key/value heads and head_dim of a `transformers` configuration, whether it names them or not."""
    heads = config.num_attention_heads
    return (
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def windows_of_cache(config: Any) -> tuple[int, ...]:
    """How many rows of each layer `transformers` keeps while it decodes, 0 = all.

    Its cache goes by the configuration alone: it forgets what is behind a `sliding_window` also where the layers know
    of none, and where the prompt was therefore read without.

    Raises:
        InputError: a configuration that `transformers` makes no such cache for.
    """
    try:
        layers = DynamicCache(config=config).layers
        if not all(isinstance(layer, DynamicLayer) for layer in layers):
            raise ValueError("not all layers are attention")
        return tuple(int(getattr(layer, "sliding_window", 0)) for layer in layers)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"transformers cannot decode with the layer_types and sliding_window of the target's config: {error}; "
            "correct them"
        ) from error


def refilled(rows: list[int], batch: int) -> list[int]:
    """Which sequence stands at each place of a batch after `KVCache.refill`."""
    return [rows[place % len(rows)] for place in range(batch)]


def beliefs(shortest: int, longest: int) -> list[int]:
    """For recording, see `KVCache.clear`: the longest prefixes below each of the `CUTS` that sequences pass through.

    Args:
        shortest: rows of a sequence's prefix at first. longest: of prefix and tree at last.
    """
    ranges = zip((0, *CUTS), (*CUTS, longest), strict=True)
    return [below for below, cut in ranges if below < longest and cut > shortest]


def narrower(window: int, other: int) -> int:
    """The smaller of two windows, 0 = none."""
    return min(window or other, other or window)


def cut_for(rows: int, capacity: int) -> int:
    """What attention's work over so many rows is cut for, in a cache of a capacity: one of `CUTS`, or all it has."""
    return min(next((cut for cut in CUTS if cut >= rows), capacity), capacity)


@dataclass(frozen=True, slots=True, eq=False)
class CacheRows:
    """Copies of the first rows of a sequence, apart from the cache that they were made in.

    Attributes:
        keys, values: (layers, Hkv, n, head_dim).
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.keys.nbytes + self.values.nbytes


class KVCache:
    """Keys and values of all layers, allocated once.

    Rows 0 … lengths[b]-1 of sequence b are its prefix. What is written lies right behind it, as rows of the tree, until
    `commit` moves the accepted path to the front and the prefix grows.

    Attributes:
        keys, values: (layers, B, Hkv, capacity, head_dim).
        lengths: int32 (B,), prefix rows, on the device, always at the same place in memory; `host_lengths` is the same
            on the host.
        counters: those of `ops.tree_attention`, where its kernels have a use for them.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        capacity = -(-capacity // ROUND_ROWS_TO) * ROUND_ROWS_TO
        # Zeros, not empty: rows behind the tree are masked, but 0 * NaN from fresh memory would still be NaN.
        self.keys = torch.zeros(layers, batch, kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.host_lengths = [0] * batch
        counted = device.type == "cuda"
        self.counters = torch.zeros(ops.MERGE_COUNTERS, dtype=torch.int32, device=device) if counted else None
        # `keep` makes views of these.
        self._whole = self.keys, self.values, self.lengths

    @classmethod
    def for_model(cls, config: Any, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> KVCache:
        """An empty cache for the layers of a `transformers` configuration."""
        kv_heads, head_dim = key_value_sizes(config)
        return cls(config.num_hidden_layers, batch, kv_heads, capacity, head_dim, dtype, device)

    @property
    def batch(self) -> int:
        """Number of sequences B."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Rows per sequence, prefix and tree together."""
        return self.keys.shape[3]

    @property
    def row_bytes(self) -> int:
        """Memory that one row of one sequence takes, keys and values of all layers."""
        return 2 * self.keys[:, 0, :, 0].numel() * self.keys.element_size()

    def longest(self, tree_rows: int) -> int:
        """Rows of the longest sequence with a tree of so many, rounded up to one of `CUTS`.

        It says how many blocks a GPU may need for attention, and changes no bit of its sums.
        """
        return cut_for(max(self.host_lengths) + tree_rows, self.capacity)

    def reads_as(self, capacity: int, rows: int) -> bool:
        """Whether sums over so many rows are rounded as in a cache of another capacity: a GPU's work is cut by it."""
        return self.counters is None or cut_for(rows, self.capacity) == cut_for(rows, capacity)

    def fits(self, batch: int, capacity: int) -> bool:
        """Whether this cache can be used again for so many sequences and rows."""
        keys, _, lengths = self._whole
        return len(lengths) == batch and keys.shape[3] >= capacity

    def clear(self, believed: int = 0) -> None:
        """Forgets everything; the memory stays, that of sequences that were dropped too.

        Args:
            believed: rows that the host is to believe every prefix to have, until it is cleared again. What is recorded
                meanwhile serves all prefixes for which `longest` says the same.
        """
        self.keys, self.values, self.lengths = self._whole
        self.lengths.zero_()
        self.host_lengths = [believed] * self.batch

    def row(self, index: int) -> KVCache:
        """A view of one sequence (B = 1) on the same memory; its own lengths are a copy."""
        view = object.__new__(type(self))
        view.keys, view.values = self.keys[:, index : index + 1], self.values[:, index : index + 1]
        view.lengths = self.lengths[index : index + 1].clone()
        view.host_lengths = self.host_lengths[index : index + 1]
        view.counters = self.counters
        return view

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these, in place: sequence i becomes what rows[i] >= i was."""
        count, used = len(rows), max(self.host_lengths)
        for place, row in enumerate(rows):
            if place != row:
                self.keys[:, place, :, :used] = self.keys[:, row, :, :used]
                self.values[:, place, :, :used] = self.values[:, row, :, :used]
        self.keys, self.values = self.keys[:, :count], self.values[:, :count]
        self.lengths[:count] = self.lengths[torch.tensor(rows, device=self.lengths.device)]
        self.lengths = self.lengths[:count]
        self.host_lengths = [self.host_lengths[row] for row in rows]

    def refill(self, rows: list[int]) -> None:
        """As `keep`, but of as many sequences as before: behind those that are kept stand copies of them, in turn."""
        count, used = len(rows), max(self.host_lengths)
        for place, source in enumerate([*rows, *(place % count for place in range(count, self.batch))]):
            if place != source:
                self.keys[:, place, :, :used] = self.keys[:, source, :, :used]
                self.values[:, place, :, :used] = self.values[:, source, :, :used]
        places = refilled(rows, self.batch)
        self.lengths.copy_(self.lengths[torch.tensor(places, device=self.lengths.device)])
        self.host_lengths = [self.host_lengths[row] for row in places]

    def spread(self) -> None:
        """Makes every sequence a copy of the first."""
        used = self.host_lengths[0]
        self.keys[:, 1:, :, :used] = self.keys[:, :1, :, :used]
        self.values[:, 1:, :, :used] = self.values[:, :1, :, :used]
        self.set_lengths([used] * self.batch)

    def copy_rows(self, row: int, count: int) -> CacheRows:
        """Copies of the first `count` rows of one sequence's prefix, which must be as long at least."""
        assert count <= self.host_lengths[row]
        keys, values = (
            part[:, row, :, :count].clone(memory_format=torch.contiguous_format) for part in (self.keys, self.values)
        )
        return CacheRows(keys, values)

    def take_rows(self, row: int, rows: CacheRows, count: int) -> None:
        """Begins a sequence, which must be empty, with the first `count` of some rows."""
        assert self.host_lengths[row] == 0 and count <= len(rows)
        self.keys[:, row, :, :count] = rows.keys[:, :, :count]
        self.values[:, row, :, :count] = rows.values[:, :, :count]
        self.advance_row(row, count)

    def rewind(self, lengths: list[int]) -> None:
        """Goes back: sequence b keeps the first lengths[b] rows of its prefix, which must be as long at least."""
        assert all(new <= old for new, old in zip(lengths, self.host_lengths, strict=True))
        self.set_lengths(lengths)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor) -> None:
        """Writes keys and values (B, Hkv, N, head_dim) of one layer.

        Args:
            rows: int64 (B, N), where to. They come from the device: what is recorded of a forward once then writes
                behind any prefix, however long.
        """
        for sequence, places in enumerate(rows):
            self.keys[layer, sequence].index_copy_(1, places, keys[sequence])
            self.values[layer, sequence].index_copy_(1, places, values[sequence])

    def advance(self, counts: list[int]) -> None:
        """Makes the first counts[b] tree rows part of the prefix of sequence b, where the host says how many."""
        self.note(counts)
        self.set_lengths(self.host_lengths)

    def grow(self, counts: torch.Tensor | int) -> None:
        """Makes the first tree rows part of the prefixes, on the device; `note` tells the host as soon as it knows.

        Args:
            counts: int32 (B,), how many of each sequence's, or one number for all.
        """
        self.lengths.add_(counts)

    def note(self, counts: list[int]) -> None:
        """Counts on the host what `grow` or `commit` did on the device."""
        self.host_lengths = [length + count for length, count in zip(self.host_lengths, counts, strict=True)]

    def set_lengths(self, lengths: list[int]) -> None:
        """Writes the prefixes' lengths, on the host and on the device, which a GPU is waited for to do."""
        self.host_lengths = lengths
        self.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))

    def advance_row(self, row: int, count: int) -> None:
        """Makes the first `count` tree rows of one sequence part of its prefix."""
        self.advance([count if index == row else 0 for index in range(self.batch)])

    def commit(self, path: torch.Tensor, gained: torch.Tensor) -> None:
        """Moves the accepted path's rows behind the prefix, in place, and lets the prefix grow by it, as `grow` does.

        Args:
            path: int32 (B, P), accepted nodes in order, root first.
            gained: int32 (B,), how many of them count.
        """
        ops.commit_path(self.keys, self.values, path, gained, self.lengths, advance=True)
