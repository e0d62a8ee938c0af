"""What every policy answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeVar

import torch

from ltd.common.argument_types import as_whole, as_wholes, check_offers, whole_from
from ltd.errors import InputError
from ltd.tree import DraftTree


def text_limit(policy: Policy) -> int:
    """The most candidates of the text that a policy wants in a tree, its `max_text`.

    Most policies have no such attribute. They know the draft alone: for them nothing is looked up.
    """
    return as_whole(getattr(policy, "max_text", 0), "the policy's max_text")


def beam_width(policy: Policy) -> int | None:
    """The beam width that a policy's trees have, its `width`; None is the draft's own, as of one without that."""
    width = getattr(policy, "width", None)
    return None if width is None else as_whole(width, "the policy's width")


def known_sizes(policy: Policy) -> tuple[int, ...]:
    """All numbers of candidates that a policy may choose, its `sizes`; empty of one that does not name them."""
    return as_wholes(getattr(policy, "sizes", ()), "the policy's sizes")


def check_width(width: int | None) -> None:
    """Raises InputError unless a draft could have the beam width that a policy is given; None is the draft's own."""
    if width is not None and as_whole(width, "width") < 1:
        raise InputError(f"beam width {width} is out of range; it must be at least 1")


def of_width(width: int | None) -> str:
    """What a fixed policy's name ends with, for people."""
    return "" if width is None else f", width {width}"


def check_without_draft(policy: Policy) -> None:
    """Raises InputError if a policy decides about a draft; for where there is none."""
    if not getattr(policy, "drafts", True):
        return
    if getattr(policy, "needs_draft", text_limit(policy) == 0):
        raise InputError(
            f"the policy {policy} decides about a draft, and there is none; load one, use lookup:N, which is "
            "ltd.Lookup(N) and looks tokens up in the text alone, or the policy none"
        )


class PolicyCall(Protocol):
    """A policy for one call of the decoder: up to three questions per cycle.

    A wrong answer can cost speed, never correctness. One answer serves the whole batch.

    Attributes:
        max_depth, max_size: the policy's, or less.
    """

    @property
    def max_depth(self) -> int: ...

    @property
    def max_size(self) -> int: ...

    def keep(self, rows: list[int]) -> None:
        """Drops all sequences but these; called between two cycles.

        Args:
            rows: which sequence each of the next cycle's was. On a GPU one may be named more than once: copies of it
                then stand where sequences have ended.
        """
        ...

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Whether to draft at all in this cycle; without, it costs a plain step and no draft forward.

        Asked once in every cycle, before the draft reads what the last cycle gained; a draft that is left out reads it
        when it is next used.

        Args:
            lengths: int32 (B,), the context lengths.
            gained: tokens that each of the B sequences gained in the last cycle; in the first cycle 1 each, which the
                prefill gained.
        """
        ...

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether to expand once more, after `depth` expansions; asked at every level below `max_depth`.

        `tree.lengths` are the context lengths, `tree.newest_scores` those of the newest level, `tree.root_states` the
        draft's states. A policy with a `max_text` finds what the text proposes in `tree.text`, and is first asked with
        the depth -1, before anything is drafted: whether to ask the draft at all. There are no newest scores then, and
        no states.
        """
        ...

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """How many candidates to verify, 0 … `max_size`, asked once when drafting has stopped at `depth`.

        With a `max_text`, these are of both sources, and the depth may be -1, see `continue_drafting`.
        """
        ...


class Policy(Protocol):
    """Decides how deep to draft and how many candidates to verify.

    Attributes:
        max_depth: the deepest tree it may ask for, 0 … 12 expansions after the root's own draft forward.
        max_size: the most candidates it may send to verification, 0 … 512.

    Five more are read where a policy has them: `max_text`, see `text_limit`; `width`, the beam width that the draft is
    to have, see `beam_width`; `drafts`, which is False of one that never asks a draft, and needs none; `needs_draft`,
    whether any other makes no sense without one, which else are those that look nothing up; and `sizes`, a tuple of all
    that it may choose, for which a GPU's verifications are then recorded.
    """

    @property
    def max_depth(self) -> int: ...

    @property
    def max_size(self) -> int: ...

    def start(self, batch: int) -> PolicyCall:
        """The policy for one call with B sequences. One that keeps nothing between cycles may return itself."""
        ...


def check_policy(policy: Any, wanted: str) -> None:
    """Raises InputError, which says what is wanted, unless something can be asked as a policy is."""
    check_offers(policy, ("max_depth", "max_size", "start"), "policy", wanted)
    try:
        beam_width(policy)
    except InputError as error:
        raise InputError(
            f"the policy's width is {policy.width!r}; as a policy's attribute it is the beam width of its trees, "
            "a whole number, so name what means something else otherwise"
        ) from error
    sizes = getattr(policy, "sizes", ())
    try:
        are_sizes = isinstance(sizes, tuple) and min(known_sizes(policy), default=0) >= 0
    except InputError:
        are_sizes = False
    if not are_sizes:
        raise InputError(
            f"the policy's sizes are {sizes!r}; as a policy's attribute they are a tuple of all numbers of candidates "
            "that it may choose, so name what means something else otherwise"
        )
    most = as_whole(policy.max_size, "the policy's max_size")
    if max(sizes, default=0) > most:
        raise InputError(f"the policy's sizes are {sizes}, but its max_size is {most}; it must be the largest of them")


def started(policy: Policy, batch: int) -> PolicyCall:
    """`policy.start`; InputError, which names its class, if what it returns cannot be asked as a call is, or has other
    limits than it within which trees would be too large."""
    call = policy.start(batch)
    questions = ("max_depth", "max_size", "keep", "speculate", "continue_drafting", "choose_size")
    name = f"what {type(policy).__name__}.start returns"
    check_offers(call, questions, name, f"an object with {', '.join(questions)}")
    for limit, most in (("max_depth", policy.max_depth), ("max_size", policy.max_size)):
        number = as_whole(getattr(call, limit), f"the {limit} of {name}")
        if not 0 <= number <= most:
            raise InputError(f"the {limit} of {name} is {number}; it must be 0 … {most}, as the policy's is {most}")
    return call


def chosen_size(owner: object, call: PolicyCall, tree: DraftTree, depth: int) -> int:
    """What a call answers to `choose_size`, as Python's own number.

    Args:
        owner: whose class messages name.

    Raises:
        InputError: it is no whole number, or not within 0 and the call's max_size.
    """
    size = whole_from(owner, "choose_size", call.choose_size(tree, depth))
    if not 0 <= size <= call.max_size:
        raise InputError(
            f"size {size} is out of range; {type(owner).__name__}.choose_size must answer 0 … {call.max_size}, its "
            "max_size"
        )
    return size


class MadeForHead:
    """A policy that reads what one draft head says, and was trained for it.

    Attributes:
        head_sha256: hash of the head's weights; None fits any.
    """

    __slots__ = ()

    head_sha256: str | None


class StopsBySignal(ABC):
    """A rule for the depth that looks at one number of the tree, level by level, and stops where that tells it to.

    A batch goes by the mean of its sequences' numbers.
    """

    __slots__ = ()

    @abstractmethod
    def signal(self, tree: DraftTree) -> torch.Tensor:
        """float32 (B,): the number, once a level has been drafted."""

    @abstractmethod
    def goes_on(self, signal: torch.Tensor) -> torch.Tensor:
        """float64, any shape → bool: whether to draft deeper at these numbers."""

    def looks(self, levels: int) -> bool:
        """Whether it looks at a tree of so many levels; where it does not, it goes on."""
        return True

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        """Whether the mean of the numbers says so; before the first level there is none, and it drafts."""
        looks = tree.levels > 0 and self.looks(tree.levels)
        return not looks or bool(self.goes_on(self.signal(tree).mean().double()))


Kind = TypeVar("Kind", bound="FixedSize")


class FixedSize:
    """A policy that is its own call; what inherits it decides how deep to draft.

    Attributes:
        size: candidates to verify, without the root.
    """

    __slots__ = ()

    size: int

    @property
    def max_size(self) -> int:
        """The size."""
        return self.size

    def start(self: Kind, batch: int) -> Kind:
        """Itself: it keeps nothing."""
        return self

    def keep(self, rows: list[int]) -> None:
        """Nothing is kept of any sequence."""

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        """Always."""
        return True

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        """The size."""
        return self.size
