"""Made-up outcomes for tests of environments, with partners and layouts that fit; and networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stages import with_plain

from ltd.latency.interpolation import Interpolant
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary, depth_layout, size_layout
from ltd.tree import candidate_count
from ltd_rl.traces.outcomes import Outcomes

WIDTH, STATE = 2, 3
LADDER = (2, 5, 9)
ROLES = ("depth", "size")
KNOWN = (20, 40)  # context lengths, of which recorded and made-up ones are below and above


def made_up(seed: int, counts: tuple[int, ...] = (4, 1, 7), depth: int = 3) -> Outcomes:
    """Outcomes of generations with so many positions, all of them random."""
    generator, positions = np.random.default_rng(seed), sum(counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rest = np.repeat(starts[1:], counts) - np.arange(positions)
    shape = (positions, depth + 1, len(LADDER))
    return Outcomes(
        width=WIDTH,
        sizes=LADDER,
        starts=starts,
        lengths=generator.integers(1, 900, positions),
        **with_plain(
            np.minimum(generator.integers(1, 5, shape), rest[:, None, None]),
            0.01 + generator.random(shape),
            np.full(positions, 0.5, dtype=np.float32),
        ),
        scores=(-120 * generator.random((positions, candidate_count(WIDTH, depth)))).astype(np.float32),
        states=generator.normal(size=(positions, STATE)).astype(np.float32),
        begin=Interpolant(np.array([1.0, 2.0]), np.array([1.0]), np.array([[0.1], [0.2]])),
    )


def partner_of(outcomes: Outcomes, role: str, seed: int = 0) -> Any:
    """A random table."""
    generator = np.random.default_rng(seed)
    if role == "depth":
        return generator.integers(0, len(outcomes.sizes), (outcomes.positions, outcomes.depth + 1))
    return generator.integers(0, outcomes.depth + 1, outcomes.positions)


def layouts_of(role: str, width: int, depth: int, states: int) -> list[Layout | Summary]:
    """The paper's, and summaries, with and without the state and a range of lengths."""
    paper = depth_layout(width) if role == "depth" else size_layout(width, depth)
    summaries = [Summary(4, 2), Summary(3, 5, states), Summary(3, 5, 0, KNOWN), Summary(2, 2, states, KNOWN)]
    return [paper, *summaries, replace(paper, length_range=KNOWN)]


def random_network(layout: Summary, outputs: int, seed: int) -> Network:
    """A layer of 16 between; odd seeds have tanh."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, layout.width), (outputs, 16)]
    weights = [
        tensor
        for rows, columns in shapes
        for tensor in (torch.randn(rows, columns, generator=generator), torch.randn(rows, generator=generator))
    ]
    return Network(layout, tuple(weights), "tanh" if seed % 2 else "relu")
