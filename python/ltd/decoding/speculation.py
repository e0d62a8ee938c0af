"""What a call's candidates come from, a draft and the text itself, and the policy that steers both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from ltd.common.argument_types import truth_from
from ltd.decoding.gain import Gain, in_runs, joined
from ltd.decoding.statistics import Stopwatch
from ltd.decoding.workspace import GAINS, Workspace
from ltd.drafts import Draft, DraftSession
from ltd.drafts.base import at_width
from ltd.lookup import TextCandidates, TextHistory, TextScores, TextSource, default_text_scores
from ltd.policies import Policy, PolicyCall
from ltd.policies.base import beam_width, check_without_draft, chosen_size, started, text_limit
from ltd.tree import NOT_ASKED, DraftTree, check_tree_limits


@dataclass(slots=True)
class Speculation:
    """What grows the trees of a call. Plain decoding is a call without one.

    Args:
        draft: proposes tokens, with the beam width of the policy, if that has one; None leaves those that the text
            proposes.
        policy: decides whether to ask the draft, how deep to draft and how many candidates to verify.
        text_scores: how likely the text's candidates are, unless the policy was made with others; None is as
            `default_text_scores` says. They are looked up only for a policy that knows them, see
            `ltd.policies.base.text_limit`.
        history: other texts, in which candidates are looked up as well.

    Raises:
        InputError: the policy asks for more than a tree can hold, or decides about a draft where there is none.

    Attributes:
        workspace, call: the memory, and the policy, of the request that `start` began.
        source: of the text's candidates, for that request; None where none are looked up.
        unread: what the draft has not read yet: the gains since it was last used, oldest first.
    """

    draft: Draft | None
    policy: Policy
    text_scores: TextScores | None = None
    history: TextHistory | None = None
    workspace: Workspace = field(init=False, repr=False, compare=False)
    call: PolicyCall = field(init=False, repr=False, compare=False)
    source: TextSource | None = field(default=None, init=False, repr=False, compare=False)
    unread: list[Gain] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not getattr(self.policy, "drafts", True):
            self.draft = None  # it would read all texts, and keep what it reads, for nothing
        if self.draft is None:
            check_without_draft(self.policy)
        else:
            self.draft = at_width(self.draft, beam_width(self.policy))
        check_tree_limits(*self.limits, self.max_text)

    @property
    def max_text(self) -> int:
        """The most candidates of the text in a tree."""
        return text_limit(self.policy)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Beam width, depth and size of the largest tree."""
        if self.draft is None:
            return 1, 0, self.policy.max_size
        return self.draft.width, self.policy.max_depth, self.policy.max_size

    @property
    def session(self) -> DraftSession | None:
        """The draft's, for the request that `start` began; None without a draft."""
        return self.workspace.drafting

    def start(self, prompts: list[list[int]], workspace: Workspace, temperature: float) -> None:
        """Begins with new sequences, in a request's memory; their texts are greedy at temperature 0."""
        self.unread.clear()
        self.workspace = workspace
        self.call = started(self.policy, len(prompts))
        if self.max_text:
            scores = getattr(self.policy, "text_scores", None) or self.text_scores or default_text_scores()
            likely, device = scores.at(temperature), workspace.report.path.device
            self.source = TextSource(len(prompts), likely, self.max_text, self.history, device)
            for row, prompt in enumerate(prompts):
                self.source.extend(row, prompt)

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these, and copies one that is named again; the workspace has its own."""
        self.unread[:] = [gain.keep(rows) for gain in self.unread]
        if self.source is not None:
            self.source.keep(rows)
        self.call.keep(rows)

    def look_up(self, gain: Gain) -> TextCandidates | None:
        """What the text proposes behind the last gain; None where nothing is looked up."""
        return None if self.source is None else self.source.propose(gain.accepted.token_lists)

    def grow(self, tree: DraftTree, gain: Gain, watch: Stopwatch) -> tuple[int, int]:
        """Drafts from the roots of the last gain, as deep as the policy wants, or not at all.

        Args:
            tree: begun at these roots; filled with what is drafted, unless the policy wants no draft, and with what the
                text proposes, unless it wants nothing verified.
            gain: of the last cycle, or of the prefill.
            watch: told what is drafting, deciding and merging.

        Returns:
            the depth, `NOT_ASKED` without a draft; and the size that the policy wants verified, 0 in a plain cycle.

        Raises:
            InputError: an answer of the policy is of the wrong type, or a size out of range.
        """
        depth = NOT_ASKED
        if not self.speculates(tree, gain, watch):
            return depth, 0
        while self.goes_on(tree, depth):
            watch.lap("policy")
            self.deepen(tree, depth, watch)
            depth += 1
        size = chosen_size(self.policy, self.call, tree, depth)
        watch.lap("policy")
        if size and tree.text is not None:
            tree.merge()
            watch.lap("lookup")
        return depth, size

    def speculates(self, tree: DraftTree, gain: Gain, watch: Stopwatch) -> bool:
        """Whether the policy wants any candidates in this cycle. Arguments as `grow`."""
        if self.draft is not None:
            self.unread.append(gain)
        answer = self.call.speculate(tree.lengths, gain.accepted.counts)
        speculates = truth_from(self.policy, "speculate", answer)
        watch.lap("policy")
        return speculates

    def hold(self) -> None:
        """Copies what the draft has not read, as the next verification overwrites it."""
        if self.unread:
            self.unread[-1] = self.unread[-1].copied()

    def goes_on(self, tree: DraftTree, depth: int) -> bool:
        """Whether to draft one more level. A policy that knows the draft alone is not asked about the first."""
        if self.draft is None:
            return False
        if depth == NOT_ASKED and tree.text is None:
            return True
        if depth >= self.call.max_depth:
            return False
        return truth_from(self.policy, "continue_drafting", self.call.continue_drafting(tree, depth))

    def deepen(self, tree: DraftTree, depth: int, watch: Stopwatch) -> None:
        """Drafts one more level of a tree that was drafted to a depth, the first where that is `NOT_ASKED`."""
        assert self.draft is not None and self.session is not None
        space = self.workspace
        run = space.captures.run
        if depth == NOT_ASKED:
            *earlier, newest = in_runs(self.unread)
            for gains in earlier:
                unread = joined(gains)
                self.session.begin(unread.features, unread.tokens, unread.gained)
                self.session.note(unread.counts)
            unread = joined(newest, GAINS if space.can_record else ())
            first = partial(self.first_level, tree, unread.features, unread.tokens, unread.gained)
            # What was copied lies somewhere else than what was recorded.
            logits, states = first() if unread.width is None else run(space.begin_part(unread.width), first)
            self.session.note(unread.counts)
            tree.root_states = states
            self.unread.clear()
        else:
            logits, states = run(space.expand_part(depth), partial(self.next_level, tree))
        tree.states = states
        tree.grown(logits)
        watch.lap("draft")

    def first_level(
        self, tree: DraftTree, features: torch.Tensor | None, tokens: torch.Tensor, gained: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The draft reads what it had not, and proposes: on the device alone. Its logits and its states there."""
        assert self.draft is not None and self.session is not None
        logits = self.session.begin(features, tokens, gained)
        tree.draw(logits, self.draft.d2t, self.workspace.shared)
        return logits, self.session.root_states

    def next_level(self, tree: DraftTree) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The draft proposes what follows the newest level: on the device alone. Its logits and its states there."""
        assert self.draft is not None and self.session is not None
        logits = self.session.expand(tree)
        tree.draw(logits, self.draft.d2t, self.workspace.shared)
        return logits, self.session.beam_states
