"""What is known in a cycle when it is decided how deep to draft and how much to verify, at recorded positions.

At a stage, so many expansions after the root's own draft forward, or -1 before anything is drafted, that is

- the scores of the levels so far, as a large `Summary` shows them, the context length, and what the text proposes;
- the draft's state at the root, from stage 0 on, where traces hold it;
- how often the draft's best token and the text's, and the best few, were right at the positions before.

The last are of every position before, not only of those where a cycle began: the draft reads them all. At position p
they say whether token p and those before it were proposed, which is known there; nothing says more of what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ltd.common.arrays import Floats, Integers
from ltd.lookup import TEXT_FEATURES
from ltd.policies.learned.observation import Summary, normalised
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.traces.outcomes import Outcomes

BEST, NEWEST = 24, 12  # scores that are shown
WINDOWS = (1, 4, 16)  # positions before, over which it is counted how often something was right


@dataclass(frozen=True)
class Known:
    """What is known at the P positions of some outcomes.

    Args:
        outcomes: the positions.
    """

    outcomes: Outcomes

    @property
    def stages(self) -> range:
        """The stages at which something is decided, in order."""
        return range(NOT_ASKED, self.outcomes.depth + 1)

    @property
    def width(self) -> int:
        """Numbers at a position, without the state."""
        return self.layout.width + int(self.lately.shape[1])

    @cached_property
    def layout(self) -> Summary:
        """Of the scores, the length and the text."""
        outcomes = self.outcomes
        return Summary(BEST, NEWEST, 0, outcomes.length_range, TEXT_FEATURES if outcomes.max_text else 0)

    @cached_property
    def lately(self) -> Floats:
        """float32 (P, n): how often what was right at the positions before, see `right_lately`."""
        return right_lately(self.outcomes)

    @cached_property
    def states(self) -> Floats:
        """float32 (P, H), as policies read them."""
        found: Floats = normalised(torch.from_numpy(self.outcomes.states)).numpy()
        return found

    def at(self, rows: Integers, stage: int) -> Floats:
        """float32 (n, width): at positions (n,), without the state."""
        outcomes, layout = self.outcomes, self.layout
        text = torch.from_numpy(outcomes.text[rows]) if layout.text else None
        scores = torch.from_numpy(outcomes.scores[rows, : candidate_count(outcomes.width, stage) if stage >= 0 else 0])
        newest = candidate_count(outcomes.width, stage - 1) if stage > 0 else 0
        # A summary without text has no place for the stage before the draft; it is told by its lack of scores.
        shown = layout.build(scores, newest, outcomes.lengths[rows], max(stage, layout.least_depth), None, text)
        return np.concatenate([shown.numpy(), self.lately[rows]], axis=1)

    def states_at(self, rows: Integers, stage: int) -> Floats:
        """float32 (n, H): the states at positions (n,); zeros before the draft has begun."""
        found: Floats = self.states[rows] * np.float32(stage >= 0)
        return found


def right_lately(outcomes: Outcomes) -> Floats:
    """float32 (P, n): of the last 1, 4 and 16 positions before each, in its generation, the share at which the first
    drafted level had the right token among the best few, and the text, each for the smallest size and the largest; and
    of how many positions.
    """
    first = int(np.searchsorted(outcomes.sizes, 1))
    stages = [*([0] if outcomes.depth >= 0 else []), *([NOT_ASKED] if outcomes.max_text else [])]
    steps = [first, len(outcomes.sizes) - 1]
    # One token more at the first level: what a cycle gains beyond that would tell what comes later.
    right = np.stack([outcomes.gains[:, stage, step] > 1 for stage in stages for step in steps], axis=1)
    before = np.concatenate([np.zeros((1, right.shape[1])), np.cumsum(right, axis=0)])
    rows, starts = np.arange(outcomes.positions), np.repeat(outcomes.starts[:-1], np.diff(outcomes.starts))
    parts = []
    for window in WINDOWS:
        begin = np.maximum(starts, rows - window)
        parts.append((before[rows] - before[begin]) / np.maximum(rows - begin, 1)[:, None])
    parts.append(np.minimum(rows - starts, WINDOWS[-1])[:, None] / WINDOWS[-1])
    return np.concatenate(parts, axis=1).astype(np.float32)
