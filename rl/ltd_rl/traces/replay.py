"""Replays recorded generations under other decisions: the cycles that the decoder would have had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ltd.common.argument_types import truth_from, whole_from
from ltd.common.arrays import Integers
from ltd.errors import InputError
from ltd.policies import Policy, PolicyCall
from ltd.tree import MAX_SIZE, DraftTree, candidate_count
from ltd_rl.traces.format import RecordedGeneration

Decisions = tuple[int | Integers, int | Integers] | Policy
"""Depths and sizes, each one number or one for every position (int64 (P,)); or a policy."""


@dataclass(frozen=True, slots=True, eq=False)
class Cycles:
    """The cycles of one generation, in order; all int64 (cycles,).

    Attributes:
        positions: where each began.
        depths, sizes: what was decided; sizes count no more candidates than there were, as the decoder's do.
        gains: tokens gained; the last cycle's end where the answer ends, as the decoder's do.
    """

    positions: Integers
    depths: Integers
    sizes: Integers
    gains: Integers


def replay(generation: RecordedGeneration, decisions: Decisions, start: int = 0) -> Cycles:
    """The cycles from a position to the end of the answer.

    Args:
        generation: from the traces.
        decisions: where they are numbers, all positions are worked out at once; a policy is asked cycle by cycle, and
            may look at the scores, the lengths and the root's state of its tree only.
        start: the position of the first cycle, 0 … P; at P there is none.

    Raises:
        InputError: a start, depth or size out of range, or not one for every position.
    """
    if not 0 <= start <= generation.positions:
        raise InputError(f"start {start} is out of range; the generation has positions 0 … {generation.positions - 1}")
    if not isinstance(decisions, tuple):
        return _ask(generation, decisions, start)
    depths, sizes = _for_every_position(generation, *decisions)
    every_gain = gains(generation, *decisions)
    visited = follow(every_gain, start)
    return Cycles(visited, depths[visited], _verified(generation, depths, sizes)[visited], every_gain[visited])


def gains(generation: RecordedGeneration, depths: int | Integers, sizes: int | Integers) -> Integers:
    """What a cycle at every position would gain: int64 (P,).

    Args:
        generation: from the traces.
        depths, sizes: one for all positions, or int64 (P,).

    Raises:
        InputError: as `replay`.
    """
    every_depth, every_size = _for_every_position(generation, depths, sizes)
    count = generation.positions
    # One depth for all is a view, which is much faster than gathering.
    ranks = generation.ranks[:, depths] if isinstance(depths, int) else generation.ranks[np.arange(count), every_depth]
    limits = every_size.astype(np.uint16)  # as the ranks, so that those are not widened
    accepted: Integers = np.count_nonzero(ranks < limits[:, None], axis=1)
    rest: Integers = np.arange(count, 0, -1)
    return np.minimum(1 + accepted, rest)


def follow(every_gain: Integers, start: int = 0) -> Integers:
    """The positions that cycles begin at, from `start` on: each is the one before plus its gain."""
    steps, visited, position = every_gain.tolist(), [], start
    while position < len(steps):
        visited.append(position)
        position += steps[position]
    return np.array(visited, dtype=np.int64)


def _for_every_position(
    generation: RecordedGeneration, depths: int | Integers, sizes: int | Integers
) -> tuple[Integers, Integers]:
    count = generation.positions
    for name, values, most in (("depth", depths, generation.depth), ("size", sizes, MAX_SIZE)):
        given = np.asarray(values)
        if given.shape not in ((), (count,)) or given.dtype.kind not in "iu":
            raise InputError(f"{name}s of shape {given.shape} do not fit; give a whole number, or {count} of them")
        wrong = given[(given < 0) | (given > most)]
        if wrong.size:
            raise InputError(f"{name} {wrong.flat[0]} is out of range; it must be 0 … {most} here")
    return np.broadcast_to(depths, count), np.broadcast_to(sizes, count)


def _verified(generation: RecordedGeneration, depths: Integers, sizes: Integers) -> Integers:
    """Sizes, where they are not more than the candidates of the depth."""
    candidates = np.array([candidate_count(generation.width, depth) for depth in range(generation.depth + 1)])
    verified: Integers = np.minimum(sizes, candidates[depths])
    return verified


def _ask(generation: RecordedGeneration, policy: Policy, start: int) -> Cycles:
    """`replay` with a policy."""
    if policy.max_depth > generation.depth:
        raise InputError(f"the policy drafts to depth {policy.max_depth}; these traces know 0 … {generation.depth}")
    tree = DraftTree(1, generation.width, generation.depth, 0, torch.device("cpu"))
    call, rows, position, gain = policy.start(1), [], start, 1
    while position < generation.positions:
        depth, size = decide(tree, generation, position, call, gain)
        gain = 1 + int(np.count_nonzero(generation.ranks[position, depth] < size))
        gain = min(gain, generation.positions - position)
        rows.append((position, depth, min(size, candidate_count(generation.width, depth)), gain))
        position += gain
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Cycles(*columns)


def decide(
    tree: DraftTree, generation: RecordedGeneration, position: int, call: PolicyCall, gained: int
) -> tuple[int, int]:
    """Depth and size that a policy chooses at a position, asked as `Speculation.grow` asks it; 0 and 0 without a draft.

    Args:
        tree: for B = 1, of the traces' width and depth; its scores, lengths, levels and the root's state become those
            of the position. Its tokens and beams are not recorded.
        call: the policy, for this generation.
        gained: tokens of the cycle before; 1, the prefill's, where there is none.

    Raises:
        InputError: a size out of range, or an answer of the wrong type.
    """
    context = generation.prompt_length + position
    tree.begin(torch.tensor([int(generation.tokens[context])]), torch.tensor([context], dtype=torch.int32))
    if not truth_from(call, "speculate", call.speculate(tree.lengths, [gained])):
        return 0, 0
    tree.scores[0] = torch.from_numpy(np.array(generation.scores[position]))  # a copy: the mapped file is read-only
    states = torch.from_numpy(np.array(generation.states[position]))[None, None]
    tree.root_states = states if states.numel() else None
    tree.levels, depth = 1, 0
    while depth < call.max_depth and truth_from(call, "continue_drafting", call.continue_drafting(tree, depth)):
        tree.levels, depth = tree.levels + 1, depth + 1
    size = whole_from(call, "choose_size", call.choose_size(tree, depth))
    if not 0 <= size <= call.max_size:
        raise InputError(f"size {size} is out of range; this policy verifies 0 … {call.max_size} candidates")
    return depth, size
