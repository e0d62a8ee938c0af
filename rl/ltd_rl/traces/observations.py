"""What policies see at recorded positions, and what they decide there: many positions at once.

The same builders as at inference (`ltd.policies.learned.observation`), so that what is trained is what runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ltd.common.arrays import Floats, Integers
from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary, normalised
from ltd.policies.learned.policy import CONTINUE, Learned
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.traces.outcomes import Outcomes, Total, total

Role = Literal["depth", "size"]
BLOCK = 4096  # positions at once


@dataclass(frozen=True)
class Observer:
    """Builds the observations of one policy at the positions of some outcomes.

    Args:
        outcomes: the positions.
        layout: of the observation.
        role: a depth policy with the paper's layout sees the newest level, a size policy all candidates.
    """

    outcomes: Outcomes
    layout: Layout | Summary
    role: Role

    def at(self, rows: Integers, depths: int | Integers) -> torch.Tensor:
        """float32 (n, width): at positions (n,), after `depths` expansions, one number or (n,).

        `NOT_ASKED` is before the head is asked.

        Raises:
            InputError: that is asked for, and the layout does not show what the text proposes.
        """
        if first_asked(self.layout) == 0 and np.min(depths, initial=0) < 0:
            raise InputError(
                "this policy cannot decide before the head is asked: it does not see what the text proposes"
            )
        if isinstance(self.layout, Layout):
            scores, counts = self.scores_at(rows, depths)
            return self.layout.build(scores, self.outcomes.lengths[rows], depths, counts)
        # What differs from depth to depth is worked out once, the rest is put beside it.
        places, levels = torch.from_numpy(rows), torch.as_tensor(depths)
        parts = [self.summaries[places, levels]]
        if self.layout.states:
            parts.append(self.states[places] * (levels >= 0).float().reshape(-1, 1))  # not known before
        if self.layout.text:
            parts.append(torch.from_numpy(self.outcomes.text[rows]))
        return torch.cat(parts, dim=1)

    def scores_at(self, rows: Integers, depths: int | Integers) -> tuple[torch.Tensor, Integers | None]:
        """float32 (n, most), what a policy with the paper's layout sees, and how many of it (n,); None is all."""
        scores, width = self.outcomes.scores, self.outcomes.width
        if isinstance(depths, int):
            first, until = seen(self.role, width, depths)
            return torch.from_numpy(scores[rows, first:until]), None
        if self.role == "size":
            counts: Integers = width + depths * width * width
            return torch.from_numpy(scores[rows, : counts.max(initial=0)]), counts
        newest = self.levels[rows, np.maximum(depths, 1) - 1]
        at_root = np.flatnonzero(depths == 0)
        newest[at_root, :width] = scores[rows[at_root], :width]
        return torch.from_numpy(newest), np.where(depths == 0, width, width * width)

    @cached_property
    def levels(self) -> Floats:
        """float32 (P, D, W²): the scores of the levels below the first, as a view."""
        below = self.outcomes.scores[:, self.outcomes.width :]
        return below.reshape(len(below), self.outcomes.depth, -1)

    @cached_property
    def summaries(self) -> torch.Tensor:
        """float32 (P, stages, width without state and text): of the depths 0 … D, then -1 if the text is shown."""
        assert isinstance(self.layout, Summary)
        bare, outcomes, blocks = replace(self.layout, states=0), self.outcomes, []
        shown, depths = bare.width - bare.text, [*range(outcomes.depth + 1), *([NOT_ASKED] if bare.text else [])]
        for first in range(0, outcomes.positions, BLOCK):
            rows = slice(first, first + BLOCK)
            scores, lengths = torch.from_numpy(outcomes.scores[rows]), outcomes.lengths[rows]
            text = torch.from_numpy(outcomes.text[rows]) if bare.text else None
            levels = [
                bare.build(
                    scores[:, : candidate_count(outcomes.width, depth) if depth >= 0 else 0],
                    candidate_count(outcomes.width, depth - 1) if depth > 0 else 0,
                    lengths,
                    depth,
                    None,
                    text,
                )[:, :shown]
                for depth in depths
            ]
            blocks.append(torch.stack(levels, dim=1))
        return torch.cat(blocks)

    @cached_property
    def states(self) -> torch.Tensor:
        """float32 (P, H), normalised as the layout does."""
        return normalised(torch.from_numpy(self.outcomes.states))


def seen(role: Role, width: int, depth: int) -> tuple[int, int]:
    """The candidates that a policy with the paper's layout sees after `depth` expansions: from, until."""
    newest = candidate_count(width, depth - 1) if depth else 0
    return (newest if role == "depth" else 0), candidate_count(width, depth)


def first_asked(layout: Layout | Summary) -> int:
    """The first depth that a policy with this layout is asked at: -1 where it shows what the text proposes, else 0."""
    return NOT_ASKED if isinstance(layout, Summary) and layout.text else 0


def looks_up(outcomes: Outcomes, layout: Layout | Summary) -> dict[str, Any]:
    """What a `Learned` with this layout has to know of the text, by the names of its arguments."""
    if first_asked(layout) == NOT_ASKED:
        return {"max_text": outcomes.max_text, "text_scores": outcomes.text_scores}
    return {}


def check_layout(layout: Layout | Summary, role: Role, width: int, depth: int, states: int, max_text: int = 0) -> None:
    """Raises InputError if a layout cannot show the trees that a policy is asked about.

    Args:
        width: beam width. depth: of the deepest of these trees. states: size of the draft's states. max_text: the most
            candidates of the text in them; 0 where nothing is looked up.
    """
    if isinstance(layout, Layout):
        first, until = seen(role, width, min(depth, 1) if role == "depth" else depth)
        if layout.slots < until - first:
            raise InputError(
                f"the observation has {layout.slots} slots for scores, but the {role} policy sees up to {until - first}"
            )
    elif layout.states not in (0, states):
        raise InputError(f"a summary of {layout.states} states does not fit; they are {states}, or 0 to leave them out")
    elif layout.text and not max_text:
        raise InputError("the summary shows what the text proposes, but nothing is looked up here; leave it out")


def outputs(network: Network, observations: torch.Tensor) -> torch.Tensor:
    """float32 (n, outputs) of a network in plain PyTorch."""
    values, layers = observations, list(zip(network.weights[::2], network.weights[1::2], strict=True))
    for place, (weight, bias) in enumerate(layers):
        values = torch.addmm(bias, values, weight.T)
        if place + 1 < len(layers):
            values = values.tanh() if network.uses_tanh else values.relu()
    return values


def observers_of(outcomes: Outcomes, depth: Layout | Summary, size: Layout | Summary) -> tuple[Observer, Observer]:
    """Of the depth and the size policy; where both see the same summary, one serves both."""
    first = Observer(outcomes, depth, "depth")
    return first, first if isinstance(size, Summary) and size == depth else Observer(outcomes, size, "size")


def decided(policy: Learned, outcomes: Outcomes, observers: tuple[Observer, Observer] | None = None) -> Total:
    """What a policy comes to that decides at every position by itself.

    Args:
        observers: of these outcomes and the policy's layouts, for those who ask again and again.
    """
    depth, size = observers or (None, None)
    depths = stops(policy, outcomes, depth)
    return total(outcomes, depths, chosen_steps(policy, outcomes, depths, size))


@torch.inference_mode()
def stops(policy: Learned, outcomes: Outcomes, observer: Observer | None = None) -> Integers:
    """int64 (P,): the depth at which the depth network stops everywhere; its limit where there is no network.

    A policy that looks tokens up may stop at -1, before the head is asked.

    Args:
        observer: see `decided`.
    """
    limit, network = min(policy.depth_limit, outcomes.depth), policy.depth_network
    depths = np.full(outcomes.positions, limit)
    if network is None:
        return depths
    observer, going = observer or Observer(outcomes, network.layout, "depth"), np.arange(outcomes.positions)
    for depth in range(policy.min_depth if policy.min_depth or not policy.max_text else NOT_ASKED, limit):
        actions = outputs(network, observer.at(going, depth)).argmax(1).numpy()
        depths[going[actions != CONTINUE]] = depth
        going = going[actions == CONTINUE]
    return depths


@torch.inference_mode()
def chosen_steps(policy: Learned, outcomes: Outcomes, depths: Integers, observer: Observer | None = None) -> Integers:
    """int64 (P,): the step of its ladder that the size network chooses after depths (P,); 0 without a network.

    Args:
        observer: see `decided`.
    """
    steps = np.zeros(outcomes.positions, dtype=np.int64)
    network = policy.size_network
    if network is None:
        return steps
    observer = observer or Observer(outcomes, network.layout, "size")
    for depth in np.unique(depths):
        rows = np.flatnonzero(depths == depth)
        steps[rows] = outputs(network, observer.at(rows, int(depth))).argmax(1).numpy()
    return steps
