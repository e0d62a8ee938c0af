"""Replays recorded generations under other decisions: the cycles that the decoder would have had."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from ltd.common.argument_types import truth_from
from ltd.common.arrays import Integers
from ltd.errors import InputError
from ltd.lookup import TextCandidates
from ltd.policies import Policy, PolicyCall
from ltd.policies.base import chosen_size, text_limit
from ltd.tree import MAX_SIZE, DraftTree
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.text import Ranks, TextProposals, candidate_counts, head_alone, merged_ranks, parents_at

Decisions = tuple[int | Integers, int | Integers] | Policy
"""Depths and sizes, each one number or one for every position (int64 (P,)); or a policy."""


@dataclass(frozen=True, slots=True, eq=False)
class Cycles:
    """The cycles of one generation, in order; all int64 (cycles,).

    Attributes:
        positions: where each began.
        depths, sizes: what was decided; the depth is -1 where the head was not asked, and sizes count no more
            candidates than there were, both as the decoder's do.
        gains: tokens gained; the last cycle's end where the answer ends, as the decoder's do.
    """

    positions: Integers
    depths: Integers
    sizes: Integers
    gains: Integers


def replay(
    generation: RecordedGeneration, decisions: Decisions, start: int = 0, text: TextProposals | None = None
) -> Cycles:
    """The cycles from a position to the end of the answer.

    Args:
        generation: from the traces.
        decisions: where they are numbers, all positions are worked out at once; a policy is asked cycle by cycle, and
            may look at the scores, the lengths, the root's state and the text of its tree only, and with text at the
            candidates' tokens and parents.
        start: the position of the first cycle, 0 … P; at P there is none.
        text: what the text proposes at all positions. With it, trees are of both sources, and depths may be -1, where
            the head is not asked. Policies that look nothing up do not need it and do without.

    Raises:
        InputError: a start, depth or size out of range, or not one for every position; or a policy that looks tokens
            up, without proposals of as many candidates as it wants.
    """
    if not 0 <= start <= generation.positions:
        raise InputError(f"start {start} is out of range; the generation has positions 0 … {generation.positions - 1}")
    if not isinstance(decisions, tuple):
        return _ask(generation, decisions, start, _wanted_text(decisions, text))
    _for_every_position(generation, *decisions, text)
    return cycles_of(stages_of(generation, text), *decisions, start)


def cycles_of(stages: tuple[Ranks, Integers], depths: int | Integers, sizes: int | Integers, start: int = 0) -> Cycles:
    """`replay` of decisions that are known to be in range; ranks and candidates as `stages_of` gives them."""
    ranks, there = stages
    every_gain, rows = gained(ranks, depths, sizes), np.arange(len(ranks))
    every_depth, verified = np.broadcast_to(depths, rows.shape), np.minimum(sizes, there[rows, depths])
    visited = follow(every_gain, start)
    return Cycles(visited, every_depth[visited], verified[visited], every_gain[visited])


def gains(
    generation: RecordedGeneration,
    depths: int | Integers,
    sizes: int | Integers,
    text: TextProposals | None = None,
) -> Integers:
    """What a cycle at every position would gain: int64 (P,).

    Args:
        generation: from the traces.
        depths, sizes: one for all positions, or int64 (P,).
        text: as for `replay`.

    Raises:
        InputError: as `replay`.
    """
    _, every_size = _for_every_position(generation, depths, sizes, text)
    return gained(stages_of(generation, text)[0], depths, every_size)


def stages_of(generation: RecordedGeneration, text: TextProposals | None) -> tuple[Ranks, Integers]:
    """Ranks uint16 (P, D + 2, L) and numbers of candidates int64 (P, D + 2) at all stages; text as for `replay`."""
    if text is None:
        ranks, there = head_alone(generation)
        return ranks, np.broadcast_to(there, ranks.shape[:2])
    return merged_ranks(generation, text), candidate_counts(generation, text)


def gained(ranks: Ranks, stages: int | Integers, sizes: int | Integers) -> Integers:
    """int64 (P,): what cycles gain.

    Args:
        ranks: uint16 (P, D + 2, L), as `stages_of` gives them. stages, sizes: one for all positions, or int64 (P,).
    """
    count = len(ranks)
    # One stage for all is a view, which is much faster than gathering.
    chosen = ranks[:, stages] if isinstance(stages, int) else ranks[np.arange(count), stages]
    limits = np.asarray(sizes).astype(np.uint16)  # as the ranks, so that those are not widened
    accepted: Integers = np.count_nonzero(chosen < limits[..., None], axis=1)
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
    generation: RecordedGeneration, depths: int | Integers, sizes: int | Integers, text: TextProposals | None
) -> tuple[Integers, Integers]:
    count, least = generation.positions, 0 if text is None else -1
    for name, values, low, high in (("depth", depths, least, generation.depth), ("size", sizes, 0, MAX_SIZE)):
        given = np.asarray(values)
        if given.shape not in ((), (count,)) or given.dtype.kind not in "iu":
            raise InputError(f"{name}s of shape {given.shape} do not fit; give a whole number, or {count} of them")
        wrong = given[(given < low) | (given > high)]
        if wrong.size:
            raise InputError(f"{name} {wrong.flat[0]} is out of range; it must be {low} … {high} here")
    return np.broadcast_to(depths, count), np.broadcast_to(sizes, count)


def _wanted_text(policy: Policy, text: TextProposals | None) -> TextProposals | None:
    """The proposals, if the policy looks tokens up; raises InputError if they are not such as it sees."""
    most = text_limit(policy)
    if not most:
        return None
    if text is None or text.most != most:
        found = "there are none" if text is None else f"these are of up to {text.most}"
        raise InputError(f"the policy looks up to {most} candidates up in the text; give such proposals, {found}")
    return text


def _ask(generation: RecordedGeneration, policy: Policy, start: int, text: TextProposals | None) -> Cycles:
    """`replay` with a policy."""
    if 0 <= generation.depth < policy.max_depth:
        raise InputError(f"the policy drafts to depth {policy.max_depth}; these traces know 0 … {generation.depth}")
    if generation.depth < 0 and text is None:
        raise InputError("these traces are without a draft; a policy that decides anything there looks tokens up")
    tree = DraftTree(1, generation.width, max(generation.depth, 0), 0, torch.device("cpu"), text_limit(policy))
    ranks, there = stages_of(generation, text)
    call, rows, position, gain = policy.start(1), [], start, 1
    while position < generation.positions:
        depth, size = decide(tree, generation, position, call, gain, text)
        gain = 1 + int(np.count_nonzero(ranks[position, depth] < size))
        gain = min(gain, generation.positions - position)
        rows.append((position, depth, min(size, int(there[position, depth])), gain))
        position += gain
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Cycles(*columns)


def decide(
    tree: DraftTree,
    generation: RecordedGeneration,
    position: int,
    call: PolicyCall,
    gain: int,
    text: TextProposals | None = None,
) -> tuple[int, int]:
    """Depth and size that a policy chooses at a position, asked as `Speculation.grow` asks it.

    Args:
        tree: for B = 1, of the traces' width and depth; its scores, lengths, levels, text and the root's state become
            those of the position; with text, its tokens and parents too. Its beams do not.
        call: the policy, for this generation.
        gain: tokens of the cycle before; 1, the prefill's, where there is none.
        text: what the text proposes, for a policy that looks tokens up.

    Returns:
        the depth, -1 where the head is not asked; and the size, 0 in a plain cycle.

    Raises:
        InputError: a size out of range, or an answer of the wrong type.
    """
    context, depth = generation.prompt_length + position, -1
    root, length = torch.tensor([int(generation.tokens[context])]), torch.tensor([context], dtype=torch.int32)
    tree.begin(root, length, None if text is None else text_at(text, position))
    if not truth_from(call, "speculate", call.speculate(tree.lengths, [gain])):
        return depth, 0
    first_asked = 0 if text is None else -1

    def goes_on() -> bool:
        if depth < first_asked:
            return True
        return depth < call.max_depth and truth_from(call, "continue_drafting", call.continue_drafting(tree, depth))

    while depth < generation.depth and goes_on():
        if depth < 0:
            # Copies: the mapped file is read-only.
            capacity = generation.scores.shape[1]
            tree.scores[0, :capacity] = torch.from_numpy(np.array(generation.scores[position]))
            if text is not None:
                tree.tokens[0, :capacity] = torch.from_numpy(np.array(generation.candidates[position]))
                tree.parents[0, :capacity] = torch.from_numpy(parents_at(generation, position))
            states = torch.from_numpy(np.array(generation.states[position]))[None, None]
            tree.root_states = states if states.numel() else None
        tree.levels, depth = tree.levels + 1, depth + 1
    return depth, chosen_size(call, call, tree, depth)


def text_at(text: TextProposals, position: int) -> TextCandidates:
    """The text's candidates at one position, as `ltd.lookup.TextSource` proposes them to one sequence."""
    names, row = [field.name for field in fields(text)], slice(position, position + 1)
    arrays = {name: torch.from_numpy(getattr(text, name)[row].copy()) for name in names}
    return TextCandidates(**arrays, counts_list=arrays["counts"].tolist(), host=None)
