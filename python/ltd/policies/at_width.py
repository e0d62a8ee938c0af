"""Any rule for the draft's tree, with a beam width of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ltd.common.argument_types import as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import (
    Policy,
    PolicyCall,
    beam_width,
    check_policy,
    check_width,
    known_sizes,
    of_width,
    started,
    text_limit,
)
from ltd.tree import check_tree_limits


@dataclass(frozen=True, slots=True)
class AtWidth:
    """A rule that knows no beam width, with the one that its trees are to have.

    Args:
        rule: decides.
        width: beam width W, 1 … 16.

    Raises:
        InputError: a number out of range, more candidates than a tree can hold, or a rule that has another width, looks
            tokens up or never asks a draft.
    """

    rule: Policy
    width: int

    def __post_init__(self) -> None:
        check_policy(self.rule, "a rule for the draft's tree")
        if text_limit(self.rule):
            raise InputError(
                f"{self.rule} looks tokens up by itself; give Both its own width, or put BesideText around a rule of "
                "this width"
            )
        if not getattr(self.rule, "drafts", True):
            raise InputError(f"{self.rule} never asks a draft, so its trees have no beam width; leave the width out")
        settle(self, as_whole, "width")
        check_width(self.width)
        check_tree_limits(self.width, self.max_depth, self.max_size)
        if beam_width(self.rule) not in (None, self.width):
            raise InputError(f"{self.rule} has the beam width {beam_width(self.rule)}, not {self.width}")

    @property
    def max_depth(self) -> int:
        """The rule's."""
        return self.rule.max_depth

    @property
    def max_size(self) -> int:
        """The rule's."""
        return self.rule.max_size

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rule's."""
        return known_sizes(self.rule)

    def start(self, batch: int) -> PolicyCall:
        """See `Policy`: the rule's own call."""
        return started(self.rule, batch)

    def __str__(self) -> str:
        return f"{self.rule}{of_width(self.width)}"
