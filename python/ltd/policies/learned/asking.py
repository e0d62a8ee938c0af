"""Asks a learned policy's networks what to do with a tree.

Every question comes right after a forward that has driven nearly all else out of the processor's caches, so that each
object on the way costs time: what does not change within a call is looked up once, when the asker is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ltd import ops
from ltd._C import SummaryAsker
from ltd.engine.host_copy import HostCopy
from ltd.errors import InputError
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import Layout, Summary
from ltd.tree import DraftTree

# Tree and depth → the depth network's action and the size network's, for a network that is not asked 0.
Asker = Callable[[DraftTree, int], tuple[int, int]]
Askers = tuple[Asker | None, Asker | None, bool]  # see `askers`
Fixed = tuple[Any, ...]  # what the paper's operators take behind tree and depth


def askers(depth: Network | None, size: Network | None, batch: int, device: torch.device) -> Askers:
    """What asks the depth network, and what asks the size network, about trees on a device; None without.

    Returns:
        both, and whether the first one asks the size network as well: where the two read the same summary, this costs
        next to nothing.
    """
    ask_size = None if size is None else _asker(None, size, batch, device)
    if depth is None:
        return None, ask_size, False
    asks_both = size is not None and isinstance(size.layout, Summary) and _reads_as(size) == _reads_as(depth)
    return _asker(depth, size if asks_both else None, batch, device), ask_size, asks_both


def _reads_as(network: Network) -> tuple[Layout | Summary, bool]:
    """What networks that are asked at once have in common."""
    return network.layout, network.uses_tanh


def _asker(depth: Network | None, size: Network | None, batch: int, device: torch.device) -> Asker:
    """Asks one network, or both about the same summary."""
    network = depth or size
    assert network is not None
    layout = network.layout
    if isinstance(layout, Summary):
        return _summary_asker(layout, depth, size, network.uses_tanh, batch, device)
    weights = [weight.to(device) for weight in network.weights]
    fixed = layout.slots, layout.repeats, weights, network.uses_tanh, *layout.length_range
    return partial(_depth_action if size is None else _size_action, fixed)


def _summary_asker(
    layout: Summary, depth: Network | None, size: Network | None, uses_tanh: bool, batch: int, device: torch.device
) -> Asker:
    networks = [() if network is None else network.weights for network in (depth, size)]
    depth_layers, size_layers = ([len(bias) for bias in weights[1::2]] for weights in networks)
    weights = torch.cat([weight.flatten() for weights in networks for weight in weights]).to(device)
    if weights.is_cpu:
        return _direct_asker(layout, weights, depth_layers, size_layers, uses_tanh)
    return _operator_asker(layout, weights, depth_layers, size_layers, uses_tanh, batch)


class _News:
    """Whether a tree's root states are others than those of which something has been worked out."""

    def __init__(self) -> None:
        self._tree: DraftTree | None = None
        self._number = 0

    def of(self, tree: DraftTree) -> bool:
        """Whether these are new."""
        return tree is not self._tree or tree.states_number != self._number

    def are_known(self, tree: DraftTree) -> None:
        """From now on these are not."""
        self._tree, self._number = tree, tree.states_number


def _direct_asker(
    layout: Summary, weights: torch.Tensor, depth_layers: list[int], size_layers: list[int], uses_tanh: bool
) -> Asker:
    """On the CPU, where torch's dispatcher would take longer than the answer."""
    numbers, states, text = (layout.best, layout.newest, layout.states), layout.states, layout.text
    ask_both = SummaryAsker(weights, depth_layers, size_layers, *numbers, uses_tanh, *layout.length_range, text).ask
    news = _News()

    def ask(tree: DraftTree, depth: int) -> tuple[int, int]:
        counts, levels = tree.counts, tree.levels
        are_new = states > 0 and depth >= 0 and news.of(tree)
        answer = ask_both(
            tree.scores,
            counts[levels],
            counts[levels - 1] if levels else 0,
            tree.lengths,
            depth,
            _root_states(tree, states) if are_new else None,
            _text_features(tree) if text else None,
        )
        if are_new:
            news.are_known(tree)
        return answer

    return ask


def _operator_asker(
    layout: Summary,
    weights: torch.Tensor,
    depth_layers: list[int],
    size_layers: list[int],
    uses_tanh: bool,
    batch: int,
) -> Asker:
    """On other devices: the host waits for the answer alone, not for what the device was told to do after it."""
    answer = HostCopy(((batch, 2), torch.int32), device=weights.device)
    (actions,) = answer.parts
    unknown = torch.zeros(batch, 1, layout.states, device=weights.device)
    networks = weights, depth_layers, size_layers, layout.best, layout.newest, layout.text > 0
    news, sums = _News(), None

    def states_of(tree: DraftTree, depth: int) -> torch.Tensor | None:
        nonlocal sums
        if not layout.states or depth < 0:
            return unknown if layout.states else None
        states = _root_states(tree, layout.states)
        if news.of(tree):
            sums = ops.summary_state(states, *networks)
            news.are_known(tree)
        return states

    def ask(tree: DraftTree, depth: int) -> tuple[int, int]:
        states = states_of(tree, depth)
        ops.summary_decision(
            tree.scores,
            tree.candidates,
            tree.newest_from,
            tree.lengths,
            depth,
            layout.best,
            layout.newest,
            states,
            _text_features(tree) if layout.text else None,
            weights,
            depth_layers,
            size_layers,
            uses_tanh,
            actions,
            *layout.length_range,
            sums if depth >= 0 else None,
        )
        answer.send()
        goes, step = map(upper_median, zip(*answer.wait()[0].tolist(), strict=True))
        return goes, step

    return ask


def _depth_action(fixed: Fixed, tree: DraftTree, depth: int) -> tuple[int, int]:
    """An `Asker` in the paper's layout, of the newest level."""
    return upper_median(ops.depth_action(tree.newest_scores, tree.lengths, depth, *fixed).tolist()), 0


def _size_action(fixed: Fixed, tree: DraftTree, depth: int) -> tuple[int, int]:
    """An `Asker` in the paper's layout, of all candidates."""
    scores = tree.scores[:, : tree.candidates]
    return 0, upper_median(ops.size_action(scores, tree.lengths, depth, *fixed).tolist())


def _root_states(tree: DraftTree, size: int) -> torch.Tensor:
    """(B, 1, H): what the draft says at the roots. Raises InputError if the policy reads something else."""
    states = tree.root_states
    if states is None or states.shape[2] != size:
        found = "has none" if states is None else f"has {states.shape[2]}"
        raise InputError(
            f"the policy reads {size} numbers of the draft's state, but this draft {found}; use a policy made for this "
            "draft"
        )
    return states


def _text_features(tree: DraftTree) -> torch.Tensor:
    """float32 (B, X): what the text proposes at the roots. Raises InputError if nothing was looked up there."""
    if tree.text is None:
        raise InputError("the policy reads what the text itself proposes, but nothing was looked up for this tree")
    return tree.text.features


def upper_median(answers: Sequence[int]) -> int:
    """One answer for a batch."""
    return sorted(answers)[len(answers) // 2]
