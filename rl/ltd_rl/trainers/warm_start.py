"""Policies that are there already as a start: their networks, brought to other inputs and another ladder of sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary


def taken_over(network: Network, layout: Layout | Summary, rows: Sequence[int] | None = None) -> list[Tensor]:
    """w0, b0, w1, b1, … of the same function with the inputs of another layout, and other outputs.

    Args:
        network: reads a summary, and has ReLU.
        layout: a summary that shows as much of everything or more, but the same of states and text.
        rows: which of its outputs each of the new ones takes over; None is all, in order. Those that several take over
            are as likely as before, all of these together.

    Raises:
        InputError: the network is another kind, or shows what the layout does not.
    """
    old = network.layout
    if not isinstance(old, Summary) or not isinstance(layout, Summary) or network.uses_tanh:
        raise InputError("only networks with ReLU that read a summary can be gone on with")
    if (old.states, old.text) != (layout.states, layout.text) or old.best > layout.best or old.newest > layout.newest:
        raise InputError("networks that read what these inputs do not show cannot be gone on with")
    weights = [weight.detach().clone() for weight in network.weights]
    weights[0] = widened(weights[0], old, layout)
    if rows is not None:
        chosen = list(rows)
        shared = torch.tensor(np.bincount(chosen)[chosen], dtype=torch.float32)
        weights[-2:] = [weights[-2][chosen], weights[-1][chosen] - shared.log()]
    return weights


def widened(weight: Tensor, old: Summary, new: Summary) -> Tensor:
    """(hidden, old.width) → (hidden, new.width): the first layer, for a summary that shows more scores.

    The sums of the shown probabilities are then of more of these, so their weight goes to the ones that it was of.
    """
    best, newest = range(old.best), range(new.best, new.best + old.newest)
    scores = [*best, *newest]
    probabilities = [new.ranked + place for place in scores]
    first, shown = 2 * old.ranked, 2 * new.ranked
    wide = torch.zeros(len(weight), new.width)
    wide[:, scores + probabilities] = weight[:, :first]
    wide[:, [new.ranked + place for place in best]] += weight[:, first, None]
    wide[:, [new.ranked + place for place in newest]] += weight[:, first + 1, None]
    wide[:, shown + 2 :] = weight[:, first + 2 :]
    return wide


def nearest(sizes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """For every wanted size, where the nearest of the sizes is; of two, the smaller."""
    return [int(np.abs(np.array(sizes) - size).argmin()) for size in wanted]
