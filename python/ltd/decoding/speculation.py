"""A draft and the policy that steers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ltd.common.argument_types import truth_from, whole_from
from ltd.decoding.gain import Gain, joined
from ltd.decoding.statistics import Stopwatch
from ltd.drafts import Draft, DraftSession
from ltd.policies import Policy, PolicyCall
from ltd.policies.base import started
from ltd.tree import DraftTree, check_tree_limits


@dataclass(slots=True)
class Speculation:
    """What grows the trees of a call. Plain decoding is a call without one.

    Args:
        draft: proposes tokens.
        policy: decides how deep to draft and how many candidates to verify.

    Raises:
        InputError: the policy asks for more than a tree can hold.

    Attributes:
        session, call: of the draft and of the policy, for the request that `start` began.
        unread: what the draft has not read yet: the gains since it was last used, oldest first.
    """

    draft: Draft
    policy: Policy
    session: DraftSession = field(init=False, repr=False, compare=False)
    call: PolicyCall = field(init=False, repr=False, compare=False)
    unread: list[Gain] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check_tree_limits(*self.limits)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Beam width, depth and size of the largest tree."""
        return self.draft.width, self.policy.max_depth, self.policy.max_size

    def start(self, batch: int, capacity: int) -> None:
        """Begins with B new sequences of so many rows, the largest tree included; `close` ends them."""
        self.unread.clear()
        self.call, self.session = started(self.policy, batch), self.draft.start(batch, capacity)

    def close(self) -> None:
        """Ends what `start` began."""
        self.session.close()

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these."""
        self.unread[:] = [gain.keep(rows) for gain in self.unread]
        self.session.keep(rows)
        self.call.keep(rows)

    def grow(self, tree: DraftTree, gain: Gain, watch: Stopwatch) -> tuple[int, int]:
        """Drafts from the roots of the last gain, as deep as the policy wants, or not at all.

        Args:
            tree: begun at these roots; filled, unless the policy wants no draft.
            gain: of the last cycle, or of the prefill.
            watch: told what is drafting and what is deciding.

        Returns:
            the depth, and the size that the policy wants verified; 0 and 0 without a draft.

        Raises:
            InputError: an answer of the policy is of the wrong type.
        """
        policy, depth = self.call, 0
        if not self.begin(tree, gain, watch):
            return 0, 0
        while depth < policy.max_depth and truth_from(
            self.policy, "continue_drafting", policy.continue_drafting(tree, depth)
        ):
            watch.lap("policy")
            self.deepen(tree, watch)
            depth += 1
        size = whole_from(self.policy, "choose_size", policy.choose_size(tree, depth))
        watch.lap("policy")
        return depth, size

    def begin(self, tree: DraftTree, gain: Gain, watch: Stopwatch) -> bool:
        """Drafts the first level, if the policy wants a draft; says whether it does. Arguments as `grow`."""
        self.unread.append(gain)
        answer = self.call.speculate(tree.lengths, gain.accepted.counts)
        speculates = truth_from(self.policy, "speculate", answer)
        watch.lap("policy")
        if speculates:
            logits = self.session.begin(*joined(self.unread))
            tree.root_states = tree.states = self.session.root_states
            tree.expand(logits, self.draft.d2t)
            self.unread.clear()
            watch.lap("draft")
        return speculates

    def deepen(self, tree: DraftTree, watch: Stopwatch) -> None:
        """Drafts one more level. Arguments as `grow`."""
        logits = self.session.expand(tree)
        tree.states = self.session.beam_states
        tree.expand(logits, self.draft.d2t)
        watch.lap("draft")
