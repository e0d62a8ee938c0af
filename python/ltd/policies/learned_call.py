"""A learned policy in one call of the decoder: asks the networks, and remembers from cycle to cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ltd import ops
from ltd.errors import InputError
from ltd.policies.allowance import Allowance
from ltd.policies.network import Network
from ltd.policies.observation import Summary
from ltd.policies.recency import RATES, START, update
from ltd.tree import DraftTree

if TYPE_CHECKING:
    from ltd.policies.learned import Learned

STOP, CONTINUE = 0, 1  # the depth network's outputs


class LearnedCall:
    """What `ltd.policies.learned.Learned` is in one call.

    Args:
        policy: what it asks.
        batch: sequences B.

    Attributes:
        recents: float32 (B, 2), see `ltd.policies.recency`.
        allowance: says whether to draft at all, where the policy knows its costs.
    """

    def __init__(self, policy: Learned, batch: int) -> None:
        self.policy, self.allowance = policy, Allowance()
        self.recents = torch.full((batch, len(RATES)), START)
        self._nothing = torch.empty(batch, 0)
        self._began = False
        # Depth and step of the size ladder in the last cycle; None without a draft.
        self._decided: tuple[int, int] | None = None

    @property
    def max_depth(self) -> int:
        """The policy's."""
        return self.policy.max_depth

    @property
    def max_size(self) -> int:
        """The policy's."""
        return self.policy.max_size

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.recents, self._nothing = self.recents[rows], self._nothing[rows]

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Whether a draft can be afforded; always, where the costs are unknown."""
        if self._began:  # before, there was only the prefill, which is no cycle
            self._look_back(gained)
        self._began, self._decided = True, None
        return self.policy.costs is None or self.allowance.allows

    def _look_back(self, gained: list[int]) -> None:
        """Learns from the last cycle."""
        if self._decided is None:
            self.allowance.add_plain()
            return
        # In NumPy, which takes a third of the time for so few numbers.
        accepted = np.array(gained, dtype=np.float32) - 1
        self.recents = torch.from_numpy(update(self.recents.numpy(), accepted))
        if self.policy.costs is not None:
            self.allowance.add_drafted(sum(gained) / len(gained), self.policy.costs.of(*self._decided))

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """What the depth network says, in the paper's layout of the newest level."""
        network = self.policy.depth_network
        if network is None or depth < self.policy.min_depth:
            return True
        layout, weights = network.layout, network.weights
        if isinstance(layout, Summary):
            actions = self._from_summary(network, layout, tree, depth)
        else:
            actions = ops.depth_action(
                tree.newest_scores, tree.lengths, depth, layout.slots, layout.repeats, weights, network.uses_tanh
            )
        return upper_median(actions) == CONTINUE

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What the size network says of all candidates."""
        step = self._choose_step(tree, depth)
        self._decided = (depth, step)
        return self.policy.sizes[step]

    def _choose_step(self, tree: DraftTree, depth: int) -> int:
        network = self.policy.size_network
        if network is None:
            return 0
        layout, weights = network.layout, network.weights
        if isinstance(layout, Summary):
            return upper_median(self._from_summary(network, layout, tree, depth))
        scores = tree.scores[:, : tree.candidates]
        return upper_median(
            ops.size_action(scores, tree.lengths, depth, layout.slots, layout.repeats, weights, network.uses_tanh)
        )

    def _from_summary(self, network: Network, layout: Summary, tree: DraftTree, depth: int) -> torch.Tensor:
        """int32 (B,): a network's actions."""
        states = self._states(layout, tree) if layout.states else self._nothing
        return ops.summary_action(
            tree.scores[:, : tree.candidates],
            tree.lengths,
            depth,
            tree.newest_from,
            layout.best,
            layout.newest,
            self.recents if layout.recents else self._nothing,
            states,
            network.weights,
            network.uses_tanh,
        )

    def _states(self, layout: Summary, tree: DraftTree) -> torch.Tensor:
        """(B, H): what the draft says at the roots. Raises InputError if the policy reads something else."""
        states = tree.root_states
        if states is None or states.shape[2] != layout.states:
            found = "has none" if states is None else f"has {states.shape[2]}"
            raise InputError(
                f"the policy reads {layout.states} numbers of the draft's state, but this draft {found}; use a policy "
                "made for this draft"
            )
        return states[:, 0]


def upper_median(actions: torch.Tensor) -> int:
    """One answer for a batch: int32 (B,) → the upper median."""
    answers: list[int] = actions.tolist()
    return sorted(answers)[len(answers) // 2]
