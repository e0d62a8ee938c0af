"""The other policy, while one is trained: what it decides at every recorded position, as a table.

The paper trains the depth policy first against a constant size, and the size policy against random depths;
later each against the other's frozen network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ltd.common.arrays import Integers
from ltd.errors import InputError
from ltd.policies.learned.policy import Learned
from ltd_rl.traces.observations import Observer, chosen_steps, stops
from ltd_rl.traces.optimum import best_static
from ltd_rl.traces.outcomes import Outcomes

CONSTANT_DEPTH, CONSTANT_SIZE = 8, 60  # EAGLE-3's default
RANDOM: Literal["random"] = "random"


def nearest_step(sizes: Sequence[int], size: int = CONSTANT_SIZE) -> int:
    """The step of a ladder (S,) that is nearest to a size; the lower of two."""
    return int(np.abs(np.asarray(sizes) - size).argmin())


def constants(outcomes: Outcomes) -> tuple[int, int]:
    """Depth and step of the ladder that stand for a policy that is not there yet.

    The paper's 8 and 60, if there are so deep and large trees. A ladder that ends below is of a machine on which trees
    like these do not pay, and a policy trained beside one learns to save what it costs; there the best static setting.
    """
    if outcomes.depth >= CONSTANT_DEPTH and outcomes.sizes[-1] >= CONSTANT_SIZE:
        return CONSTANT_DEPTH, nearest_step(outcomes.sizes)
    depth, step, _ = best_static(outcomes)
    return depth, step


def size_table(partner: int | Learned, outcomes: Outcomes) -> Integers:
    """int64 (P, stages): the step of the ladder that a size policy takes at every position after every depth 0 … D.

    Where tokens are looked up there is a last column more, of depth -1.

    Args:
        partner: a constant step, or a policy with a size network.
        outcomes: the positions.

    Raises:
        InputError: a step outside the ladder, or a policy with another ladder or without a size network.
    """
    stages = [*range(outcomes.depth + 1), *range(outcomes.least_depth, 0)]
    if isinstance(partner, int):
        if not 0 <= partner < len(outcomes.sizes):
            raise InputError(f"step {partner} is not one of the {len(outcomes.sizes)} of the ladder")
        return np.full((outcomes.positions, len(stages)), partner)
    if partner.size_network is None or partner.sizes != outcomes.sizes:
        raise InputError(
            f"the partner chooses among the sizes {list(partner.sizes)}, but the ladder here is "
            f"{list(outcomes.sizes)}; use a policy with a size network and the same sizes"
        )
    observer = Observer(outcomes, partner.size_network.layout, "size")
    everywhere = (np.full(outcomes.positions, depth) for depth in stages)
    columns = [chosen_steps(partner, outcomes, depths, observer) for depths in everywhere]
    return np.stack(columns, axis=1)


def depth_table(partner: int | Learned, outcomes: Outcomes) -> Integers:
    """int64 (P,): the depth at which a depth policy stops at every position.

    Args:
        partner: a constant depth, or a policy with a depth network.
        outcomes: the positions.

    Raises:
        InputError: a depth beyond the outcomes', or a policy without a depth network, or one that drafts deeper.
    """
    if isinstance(partner, int):
        if not 0 <= partner <= outcomes.depth:
            raise InputError(f"depth {partner} is out of range; the depths here are 0 … {outcomes.depth}")
        return np.full(outcomes.positions, partner)
    if partner.depth_network is None:
        raise InputError("the partner has no depth network; use a policy that has one")
    if partner.depth_limit > outcomes.depth:
        raise InputError(
            f"the partner drafts to depth {partner.depth_limit}, but the depths here are 0 … {outcomes.depth}; raise "
            "the depth limit"
        )
    return stops(partner, outcomes)


def random_depths(outcomes: Outcomes, seed: int = 0) -> Integers:
    """int64 (P,): drawn uniformly from 1 … D, where the partner is random but decisions are compared."""
    return np.random.default_rng(seed).integers(1, outcomes.depth + 1, outcomes.positions)
