"""The bound on what drafting may lose, against drafts that do their worst."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ltd
from ltd.policies.learned.allowance import CREDIT, SHARE, Allowance, Costs

numbers = st.floats(0, 5)
costs_of_cycles = st.builds(Costs, numbers, numbers, st.lists(numbers, min_size=1, max_size=4).map(tuple))


@settings(max_examples=300)
@given(costs=costs_of_cycles, depth_limit=st.integers(0, 12), data=st.data())
def test_no_draft_can_break_the_bound(costs: Costs, depth_limit: int, data: st.DataObject) -> None:
    """At any number of tokens, with any decisions and gains, and the last gain cut by the end of the answer."""
    allowance, seconds, tokens = Allowance(), 0.0, 0
    most_lost = max(costs.highest(depth_limit) - 1, 0.0)
    cycle = st.tuples(st.integers(0, depth_limit), st.integers(0, len(costs.verify) - 1), st.integers(1, 14))
    for depth, step, gained in data.draw(st.lists(cycle, max_size=60)):
        if allowance.allows:
            cost = costs.of(depth, step)
            allowance.book(gained, cost)
            seconds += cost
            # Had the answer ended here, this cycle could have brought a single token.
            assert seconds <= (1 + SHARE) * (tokens + 1) + CREDIT + most_lost + 1e-9
            tokens += gained
        else:
            allowance.book()
            seconds, tokens = seconds + 1, tokens + 1
        assert seconds <= (1 + SHARE) * tokens + CREDIT + most_lost + 1e-9


def plain_share(costs: Costs, gains: list[int]) -> float:
    """The part of so many cycles that ran without a draft."""
    allowance, plain = Allowance(), 0
    for gained in gains:
        if allowance.allows:
            allowance.book(gained, costs.of(0, 0))
        else:
            allowance.book()
            plain += 1
    return plain / len(gains)


def test_a_draft_that_pays_is_never_stopped_and_one_that_does_not_nearly_always_is() -> None:
    costs = Costs(0.5, 0.0, (1.0,))
    assert plain_share(costs, [2, 1, 1, 3] * 100) == 0.0
    assert plain_share(costs, [1] * 1000) > 0.95


def test_a_bad_stretch_is_noticed_after_the_credit_is_lost() -> None:
    costs, allowance = Costs(0.5, 0.0, (1.0,)), Allowance()
    for _ in range(1000):
        allowance.book(4, costs.of(0, 0))
    assert allowance.balance == CREDIT
    lost = 0.0
    while allowance.allows:
        allowance.book(1, costs.of(0, 0))
        lost += costs.of(0, 0) - 1
    assert CREDIT < lost <= CREDIT + 1


def test_costs_add_up() -> None:
    costs = Costs(0.5, 0.25, (1.0, 2.0))
    assert costs.of(3, 1) == 3.25 and costs.highest(4) == 3.5


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_costs_that_cannot_be(wrong: float) -> None:
    for arguments in ((wrong, 0.0, (1.0,)), (0.0, wrong, (1.0,)), (0.0, 0.0, (1.0, wrong))):
        with pytest.raises(ltd.InputError, match="plain tokens cannot be"):
            Costs(*arguments)
