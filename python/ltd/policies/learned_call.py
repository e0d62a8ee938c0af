"""A learned policy in one call of the decoder: asks the networks, and remembers from cycle to cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ltd.policies.asking import askers
from ltd.policies.observation import Summary
from ltd.policies.recency import RATES, START, update
from ltd.tree import DraftTree

if TYPE_CHECKING:
    from ltd.policies.learned import Learned

CONTINUE = 1  # the depth network's output; 0 is stop


class LearnedCall:
    """What `ltd.policies.learned.Learned` is in one call.

    Args:
        policy: what it asks.
        batch: sequences B.

    Attributes:
        max_depth, max_size: the policy's.
        recents: float32 (B, 2), see `ltd.policies.recency`; they stay as they begin where no network reads them.
        allowance: the policy's; says whether to draft at all, where it knows its costs.
    """

    def __init__(self, policy: Learned, batch: int) -> None:
        self.max_depth, self.max_size = policy.max_depth, policy.max_size
        self.allowance = policy.allowance
        self.recents = torch.full((batch, len(RATES)), START)
        self._sizes, self._costs, self._min_depth = policy.sizes, policy.costs, policy.min_depth
        self._networks = policy.depth_network, policy.size_network
        self._ask_depth, self._ask_size, self._asks_both = askers(*self._networks, batch)
        layouts = [network.layout for network in self._networks if network is not None]
        self._reads_recents = any(isinstance(layout, Summary) and layout.recents > 0 for layout in layouts)
        self._began = False
        # Depth and step of the size ladder in the last cycle; None without a draft.
        self._decided: tuple[int, int] | None = None
        # Where drafting was told to stop, and what the size network said there if it was asked at once.
        self._stopped: tuple[int, int] | None = None

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.recents = self.recents[rows]
        self._ask_depth, self._ask_size, self._asks_both = askers(*self._networks, len(rows))

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Whether a draft can be afforded; always, where the costs are unknown."""
        decided, self._decided, self._stopped = self._decided, None, None
        if decided is not None and self._reads_recents:
            self._look_back(gained)
        if self._costs is None:
            return True
        if decided is not None:
            return self.allowance.book(sum(gained) / len(gained), self._costs.of(*decided))
        if self._began:
            return self.allowance.book()
        self._began = True  # so far there was only the prefill, which is no cycle
        return self.allowance.allows

    def _look_back(self, gained: list[int]) -> None:
        """Learns from the last cycle, which drafted."""
        # In NumPy, which takes a third of the time for so few numbers.
        accepted = np.array(gained, dtype=np.float32) - 1
        self.recents = torch.from_numpy(update(self.recents.numpy(), accepted))

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """What the depth network says."""
        if self._ask_depth is None or depth < self._min_depth:
            return True
        goes, step = self._ask_depth(tree, depth, self.recents)
        if goes == CONTINUE:
            self._stopped = None
            return True
        if self._asks_both:
            self._stopped = (depth, step)
        return False

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What the size network says; it is not asked again where it has just been asked with the depth network."""
        if self._stopped is not None and self._stopped[0] == depth:
            self._decided = self._stopped
        else:
            self._decided = (depth, 0 if self._ask_size is None else self._ask_size(tree, depth, self.recents)[1])
        self._stopped = None
        return self._sizes[self._decided[1]]
