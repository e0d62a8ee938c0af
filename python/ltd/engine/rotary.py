"""Rotary positions (Su et al., 2021): tables of them, and those of models whose frequencies change with the text.

What decides is one-token-at-a-time decoding by `transformers`: a prompt is one forward of its whole length, and every
token after it a forward that ends at its own position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import key_value_sizes
from ltd.errors import InputError

ROPE_OF_POSITION = ("default", "linear", "llama3", "yarn", "proportional")
"""Types whose cosines and sines depend on a token's own position and on nothing else."""
ROPE_OF_TEXT = ("longrope", "dynamic")
"""Types that choose their frequencies by the last position of a forward, once it is beyond a border."""


class RotaryTable:
    """Cosines and sines of a cache's positions, computed anew only when a larger cache asks.

    Args:
        compute: int64 (1, n) positions → cosines and sines, (1, …, n, head_dim) each.
        holds: keeps the tables of smaller caches too, for graphs that were captured with them.
    """

    def __init__(self, compute: Callable[[Tensor], tuple[Tensor, Tensor]], holds: bool = False) -> None:
        self.compute, self.holds = compute, holds
        self._held: list[tuple[Tensor, Tensor]] = []
        self.cosines = self.sines = torch.empty(0, 0)

    def for_capacity(self, capacity: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (n, head_dim), contiguous, of the positions 0 … n - 1 with n >= capacity."""
        if len(self.cosines) < capacity:
            tables = self.compute(torch.arange(capacity)[None])
            if self.holds:
                self._held.append((self.cosines, self.sines))
            self.cosines, self.sines = (table.flatten(0, -2).contiguous() for table in tables)
        return self.cosines, self.sines


class ModelRotary:
    """The rotary positions of a `transformers` model, for trees and for prompts that are read in parts.

    Args:
        module: the model's rotary embedding; it is left alone.
        dtype: of the cosines and sines.

    Raises:
        InputError: a rotary type that is not known, or one that turns only part of a head.

    Attributes:
        depends_on_text: whether a token's frequencies depend on what else is read with it.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        if module.rope_type not in ROPE_OF_POSITION + ROPE_OF_TEXT:
            raise InputError(
                f"the target's RoPE type {module.rope_type!r} is not supported; "
                f"use one of {', '.join(ROPE_OF_POSITION + ROPE_OF_TEXT)}"
            )
        self.depends_on_text = module.rope_type in ROPE_OF_TEXT
        self.module, self.kind = fresh(module) if self.depends_on_text else module, torch.empty(0, dtype=dtype)
        self.border = _border(module) if self.depends_on_text else 0
        self.table = RotaryTable(self._decoded, holds=module.inv_freq.device.type != "cpu")
        _, wanted = key_value_sizes(module.config)
        width = self._ask(self.module, torch.zeros(1, 1, dtype=torch.int64))[0].shape[-1]
        if width != wanted:
            raise InputError(
                f"the target's rotary positions turn {width} of a head's {wanted} numbers, which is not supported; "
                "use a model whose partial_rotary_factor is 1"
            )

    def for_block(self, block: TreeBlock, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines and sines (any, head_dim), and each token's row (B, N) of them.

        Args:
            block: the tokens' places.
            capacity: of the cache that they are written to.
        """
        if block.read_with <= self.border or not self.depends_on_text:
            cosines, sines = self.table.for_capacity(capacity)
            return cosines.to(block.positions.device), sines.to(block.positions.device), block.positions
        # One more token, the prompt's last, decides about all of them.
        last = block.positions.new_full((1, 1), block.read_with - 1)
        places = torch.cat([block.positions.reshape(1, -1), last], dim=1)
        cosines, sines = (table[0, :-1].contiguous() for table in self._ask(fresh(self.module), places))
        rows = torch.arange(block.positions.numel(), device=block.positions.device)
        return cosines, sines, rows.view(block.positions.shape)

    def reads_alike(self, count: int, other: int) -> bool:
        """Whether prompts of so many tokens have the same positions as far as both go, decoded tokens among them."""
        return not self.depends_on_text or max(count, other) <= self.border

    def _decoded(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Those of tokens at the positions 0 … n - 1 (1, n), each the last one of its forward."""
        if not self.depends_on_text:
            return self._ask(self.module, positions)
        # In this order a module that remembers the longest text so far sees every text as the longest.
        beyond = range(self.border, positions.size(1))  # often none, and a module takes no empty part
        parts = [positions[:, : self.border], *(positions[:, place : place + 1] for place in beyond)]
        module = fresh(self.module)
        cosines, sines = zip(*(self._ask(module, part) for part in parts), strict=True)
        return torch.cat(cosines, dim=1), torch.cat(sines, dim=1)

    def _ask(self, module: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
        place = module.inv_freq.device
        tables: tuple[Tensor, Tensor] = module(self.kind.to(place), positions.to(place))
        return tables


def fresh(module: nn.Module) -> Any:
    """A copy of a rotary module that shares its configuration; what it comes to remember is its own."""
    config: Any = module.config
    return copy.deepcopy(module, {id(config): config})


def _border(module: Any) -> int:
    """The most tokens that a forward may reach without changing the frequencies."""
    if module.rope_type == "longrope":
        return int(module.config.rope_parameters["original_max_position_embeddings"])
    return int(module.original_max_seq_len)
