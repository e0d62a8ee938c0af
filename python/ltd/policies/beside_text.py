"""Any rule for the draft's tree, with tokens that are looked up in the text beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ltd.common.argument_types import as_number, as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import Policy, PolicyCall, beam_width, check_policy, chosen_size, started, text_limit
from ltd.policies.lookup import LEAST_CHANCE, asks_draft, check_chance, check_text, text_count
from ltd.tree import DraftTree, check_tree_limits


@dataclass(frozen=True, slots=True)
class BesideText:
    """A rule of the draft alone, and the text's candidates as `ltd.policies.Both` takes them.

    Args:
        rule: decides about the draft's tree, which is all that it sees.
        text: the most candidates of the text, 1 … 64; as many as are likely enough, up to this number, are verified
            beside those that the rule wants. The best of both together are chosen.
        alone: the chance of the text's best first token from which on the draft is not asked, 0 … 1; at 1 it always is.
        least: the least chance of being right that a candidate of the text must have to count, 0 … 1.

    Raises:
        InputError: a number out of range, or a rule that looks tokens up by itself.
    """

    rule: Policy
    text: int = 8
    alone: float = 1.0
    least: float = LEAST_CHANCE

    needs_draft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.rule, "a rule for the draft's tree")
        if text_limit(self.rule):
            raise InputError(f"{self.rule} looks tokens up by itself; leave out its text beside it")
        settle(self, as_whole, "text")
        settle(self, as_number, "alone", "least")
        check_text(self.text, 1)
        check_tree_limits(self.width or 1, self.max_depth, self.max_size, self.text)
        check_chance("alone", self.alone)
        check_chance("least", self.least)

    @property
    def max_depth(self) -> int:
        """The rule's."""
        return self.rule.max_depth

    @property
    def max_size(self) -> int:
        """The rule's, and what the text may add."""
        return self.rule.max_size + self.text

    @property
    def max_text(self) -> int:
        """What the text may add."""
        return self.text

    @property
    def width(self) -> int | None:
        """The rule's."""
        return beam_width(self.rule)

    def start(self, batch: int) -> _Call:
        """See `Policy`."""
        return _Call(self, started(self.rule, batch))

    def __str__(self) -> str:
        alone = f", the text alone from a chance of {self.alone:g}" * (self.alone < 1.0)
        return f"{self.rule}, with {self.text} of the text{alone}"


class _Call:
    """See `ltd.policies.PolicyCall`."""

    def __init__(self, policy: BesideText, rule: PolicyCall) -> None:
        self.policy, self.rule = policy, rule

    @property
    def max_depth(self) -> int:
        return self.rule.max_depth

    @property
    def max_size(self) -> int:
        return self.rule.max_size + self.policy.text

    def keep(self, rows: list[int]) -> None:
        self.rule.keep(rows)

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> Any:
        return self.rule.speculate(lengths, gained)

    def continue_drafting(self, tree: DraftTree, depth: int) -> Any:
        return asks_draft(tree, self.policy.alone) if depth < 0 else self.rule.continue_drafting(tree, depth)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        of_text = text_count(tree, self.policy.text, self.policy.least)
        return of_text if depth < 0 else of_text + chosen_size(self.policy.rule, self.rule, tree, depth)
