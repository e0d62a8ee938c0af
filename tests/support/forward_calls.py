"""Calls with random arguments of the operators between a forward's products, and of what hands a cycle on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Arguments = tuple[str, list[object]]
"""An operator's name and its arguments."""


def forward_arguments(
    random: np.random.Generator, normal: Callable[..., Tensor], batch: int, lengths: Tensor
) -> Iterator[Arguments]:
    """Sizes that fill packs and sizes that do not; with and without what may be left out."""
    rows, size = int(random.integers(1, 70)), int(random.choice([24, 37, 576, 4096]))
    addend = normal(rows, size) if random.integers(2) else None
    yield "add_rms_norm", [normal(rows, size), addend, normal(size), 1e-5, normal(rows, size)]
    yield "gated_silu", [normal(rows, 2 * size), normal(rows, size)]
    yield "rotate_and_store", rotate_arguments(random, normal, batch, lengths)


def rotate_arguments(
    random: np.random.Generator, normal: Callable[..., Tensor], batch: int, lengths: Tensor
) -> list[object]:
    """Grouped heads of some sizes behind prefixes of some lengths."""
    heads, group, head_dim, nodes = (int(random.choice(sizes)) for sizes in ([1, 2], [1, 3], [6, 64, 128], [1, 4, 7]))
    first_row, table = int(random.integers(4)), int(random.integers(nodes, 40))
    norms = [normal(head_dim) if random.integers(2) else None for _ in range(2)]
    angles = torch.from_numpy(random.uniform(-3, 3, (table, head_dim)))
    kind = torch.float32 if random.integers(2) else normal(1).dtype
    capacity = int(lengths.max()) + first_row + nodes
    return [
        normal(batch, nodes, (group + 2) * heads * head_dim),
        *norms,
        1e-5,
        angles.cos().to(kind),
        angles.sin().to(kind),
        torch.from_numpy(random.integers(0, table, (batch, nodes))),
        lengths.clone(),
        first_row,
        *(normal(batch, heads, capacity, head_dim) for _ in range(2)),
        normal(batch, heads * group, nodes, head_dim),
    ]


def gather_arguments(random: np.random.Generator, normal: Callable[..., Tensor], batch: int) -> list[object]:
    """Paths of some lengths through trees of some nodes."""
    nodes, places, size = (int(random.integers(1, most)) for most in (60, 15, 90))
    integers = lambda most, *shape: torch.from_numpy(random.integers(0, most, shape))  # noqa: E731
    path, tokens = integers(nodes, batch, places).int(), integers(1000, batch, places)
    written = [normal(batch, places, size), integers(1000, batch), integers(1000, batch, 2 + places)]
    return [normal(batch, nodes, size), path, tokens, integers(places + 1, batch).int(), *written]
