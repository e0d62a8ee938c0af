"""Any rule for the draft's tree, with a beam width of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ltd.common.argument_types import as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import Policy, PolicyCall, beam_width, check_policy, check_width, of_width, started
from ltd.tree import check_tree_limits


@dataclass(frozen=True, slots=True)
class AtWidth:
    """A rule that knows no beam width, with the one that its trees are to have.

    Args:
        rule: decides.
        width: beam width W, 1 … 16.

    Raises:
        InputError: a number out of range, more candidates than a tree can hold, or a rule that has another width.
    """

    rule: Policy
    width: int

    def __post_init__(self) -> None:
        check_policy(self.rule, "a rule for the draft's tree")
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

    def start(self, batch: int) -> PolicyCall:
        """See `Policy`: the rule's own call."""
        return started(self.rule, batch)

    def __str__(self) -> str:
        return f"{self.rule}{of_width(self.width)}"
