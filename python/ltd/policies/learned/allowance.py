"""When not to draft: a bound on what drafting may lose, whatever the draft does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ltd.errors import InputError

SHARE = 0.01  # of a plain token's time, what every token that comes out adds to the balance
WORTH = 1 + SHARE  # of a token, in plain tokens' time
CREDIT = 4.0  # plain tokens: where the balance begins, and the most that it can be


@dataclass(frozen=True, slots=True)
class Costs:
    """What cycles with a draft cost, in units of one token of plain decoding.

    Args:
        begin: the draft's forward at the root.
        expand: every expansion.
        verify: for every step of the size ladder, verifying that many, with selection, acceptance and commit.
        lookup: looking tokens up in the text, which every cycle does that may use them.

    Raises:
        InputError: a cost that is not a finite number of 0 or more.
    """

    begin: float
    expand: float
    verify: tuple[float, ...]
    lookup: float = 0.0

    def __post_init__(self) -> None:
        for cost in (self.begin, self.expand, *self.verify, self.lookup):
            if not math.isfinite(cost) or cost < 0:
                raise InputError(f"a cost of {cost} plain tokens cannot be; costs are finite and 0 or more")

    def of(self, depth: int, step: int) -> float:
        """A cycle's, with so many expansions, -1 where the draft is not asked, and a step of the size ladder."""
        drafting = self.begin + depth * self.expand if depth >= 0 else 0.0
        return drafting + self.verify[step] + self.lookup

    def highest(self, depth_limit: int) -> float:
        """The dearest cycle's."""
        return self.begin + depth_limit * self.expand + max(self.verify) + self.lookup


@dataclass(slots=True)
class Allowance:
    """Says whether a draft can be afforded.

    The balance is what is left of an allowance: it begins at CREDIT, a plain cycle adds SHARE, a cycle with a draft
    that gained g tokens at cost c adds g - c + SHARE * g. Drafting is allowed while the balance is not negative.

    With true costs, decoding n tokens therefore takes no more than (1 + SHARE) * n + CREDIT + L plain tokens, where L
    is the most that a single cycle can lose, its cost minus 1. For let t be the time of all cycles so far, in plain
    tokens. Each adds to CREDIT + (1 + SHARE) * n - t just what it adds to the balance, so without the cap below the
    two are equal, and with it the balance is the lower of the two. A draft is begun at a balance of 0 or more only, and
    lowers it by less than L; nothing else lowers it. So CREDIT + (1 + SHARE) * n - t is never below -L.

    One allowance serves all calls of a policy: a head that does not suit the target costs CREDIT once, not in every
    answer. With less to begin with, an unlucky start would stop a good draft for 1 / SHARE tokens and more. And the
    balance is never more than CREDIT, or a draft that helped for a thousand tokens could then hurt for hundreds.

    Attributes:
        balance: in plain tokens.
    """

    balance: float = CREDIT

    @property
    def allows(self) -> bool:
        """Whether the next cycle may draft."""
        return self.balance >= 0.0

    def book(self, gained: float = 1.0, cost: float = 1.0) -> bool:
        """Counts a cycle; says whether the next may draft.

        Args:
            gained: tokens, for a batch the mean.
            cost: in plain tokens. The defaults are those of a cycle without a draft.
        """
        balance = self.balance + (WORTH * gained - cost)
        self.balance = balance = CREDIT if balance > CREDIT else balance
        return balance >= 0.0
