"""Trees with tokens that are looked up in the text so far: without a draft, or beside a fixed tree of one.

Prompt lookup (Saxena 2023) proposes the one continuation of the newest longest match. Here the continuations of all
places are candidates, scored by how often such a match goes on as it says, see `ltd.lookup`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ltd.common.argument_types import as_number, as_whole, settle
from ltd.errors import InputError
from ltd.policies.base import FixedSize, check_width, of_width
from ltd.tree import DraftTree, check_tree_limits

LEAST_CHANCE = 0.05  # verifying a token more takes about so much of a plain token's time where forwards are small


@dataclass(frozen=True, slots=True)
class Lookup(FixedSize):
    """The text's best candidates, without a draft; a cycle in which the text proposes nothing is plain.

    Args:
        size: the most candidates to verify, 1 … 64.
        least: the least chance of being right that a candidate must have, 0 … 1.

    Raises:
        InputError: a number out of range.
    """

    size: int = 8
    least: float = LEAST_CHANCE

    drafts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        settle(self, as_whole, "size")
        settle(self, as_number, "least")
        check_text(self.size, 1)
        check_chance("least", self.least)

    @property
    def max_depth(self) -> int:
        """Nothing is drafted."""
        return 0

    @property
    def max_text(self) -> int:
        """The size."""
        return self.size

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Never."""
        return False

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """What is likely enough, up to the size."""
        return text_count(tree, self.size, self.least)

    def __str__(self) -> str:
        return f"lookup, size {self.size}"


@dataclass(frozen=True, slots=True)
class Both(FixedSize):
    """A fixed tree of the draft with the text's candidates in it; where the text is sure, those alone.

    Args:
        depth: expansions after the root's own draft forward.
        size: candidates to verify besides those that the text may add.
        text: the most candidates of the text, 1 … 64; as many as are likely enough, up to this number, are verified
            beside the others. The best of both together are chosen.
        alone: the chance of the text's best first token from which on the draft is not asked, 0 … 1; at 1 it always is.
        least: the least chance of being right that a candidate of the text must have to count, 0 … 1.
        width: beam width; None is the draft's own.

    Raises:
        InputError: a number out of range.
    """

    depth: int = 0
    size: int = 2
    text: int = 8
    alone: float = 1.0
    least: float = LEAST_CHANCE
    width: int | None = None

    needs_draft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settle(self, as_whole, "depth", "size", "text")
        settle(self, as_number, "alone", "least")
        if self.width is not None:
            settle(self, as_whole, "width")
        check_width(self.width)
        check_tree_limits(self.width or 1, self.depth, self.size)
        check_text(self.text, 1)
        check_tree_limits(self.width or 1, self.depth, self.max_size, self.text)
        check_chance("alone", self.alone)
        check_chance("least", self.least)

    @property
    def max_depth(self) -> int:
        """The depth."""
        return self.depth

    @property
    def max_size(self) -> int:
        """The size, and what the text may add."""
        return self.size + self.text

    @property
    def max_text(self) -> int:
        """What the text may add."""
        return self.text

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Yes, up to the depth, unless the text is sure; of a batch, its mean row."""
        return depth < self.depth if depth >= 0 else asks_draft(tree, self.alone)

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size, where the draft was asked, and what the text adds."""
        return text_count(tree, self.text, self.least) + (self.size if depth >= 0 else 0)

    def __str__(self) -> str:
        alone = f", the text alone from a chance of {self.alone:g}" * (self.alone < 1.0)
        return f"both, depth {self.depth}, size {self.size} and {self.text} of the text{alone}{of_width(self.width)}"


def asks_draft(tree: DraftTree, alone: float) -> bool:
    """Whether the text's best first token is less likely than `alone`, of a batch in the mean; at 1 always."""
    assert tree.text is not None
    return alone >= 1.0 or bool(tree.text.here.chances[:, 0].mean() < alone)


def text_count(tree: DraftTree, most: int, least: float) -> int:
    """Candidates of the text that are so likely, of a batch in the row with the most of them, up to a number."""
    assert tree.text is not None
    return min(most, int((tree.text.here.chances > least).sum(dim=1).max()))


def check_chance(name: str, chance: float) -> None:
    """Raises InputError unless it is one."""
    if not 0.0 <= chance <= 1.0:
        raise InputError(f"{name} {chance} is out of range; it must be 0 … 1")


def check_text(number: int, least: int) -> None:
    """Raises InputError if a tree cannot have so many candidates of the text, or there are fewer than `least`."""
    if number < least:
        raise InputError(f"{number} candidates of the text are out of range; it must be at least {least}")
    check_tree_limits(1, 0, 0, number)
