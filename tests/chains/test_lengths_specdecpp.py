"""SpecDec++'s rule for the length of a chain, against plain recomputation with the head's own modules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltd.chains.specdecpp import SpecDecPP
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead


def random_head(seed: int, inputs: int = 12, width: int | None = None, sure: float = 2.0) -> AcceptanceHead:
    torch.manual_seed(seed)
    head = AcceptanceHead(inputs, width)
    with torch.no_grad():
        head.out.weight.mul_(4)
        head.out.bias.copy_(torch.tensor([0.0, sure]))  # most tokens are accepted, so that chains are not all short
    return head


def length_by_hand(
    head: AcceptanceHead, states: torch.Tensor, threshold: float, least: int, most: int
) -> tuple[int, float]:
    """The chain's length, and how far the nearest decision was from the threshold.

    Args:
        states: (most, H), row i is the state at the token before the i-th drafted, from 0: the root's first.
    """
    margin = math.inf
    for length in range(1, most + 1):
        judged = states[1:length]  # of all drafted tokens but the newest
        rejected = 1 - math.prod(head.chance(judged).double().tolist())
        margin = min(margin, abs(rejected - threshold)) if length > 1 else margin
        if length >= least and rejected > threshold:
            return length, margin
    return most, margin


@given(
    seed=st.integers(0, 10_000),
    width=st.sampled_from([None, 7]),
    threshold=st.floats(0, 1),
    least=st.integers(1, 4),
    more=st.integers(0, 8),
)
def test_rule_equals_plain_recomputation(seed: int, width: int | None, threshold: float, least: int, more: int) -> None:
    head, most = random_head(seed, width=width), least + more
    call = SpecDecPP(head, threshold, least, most).start()
    for _ in range(3):  # cycles: the product begins anew in each
        states = torch.randn(most, 12)
        expected, margin = length_by_hand(head, states, threshold, least, most)
        length = 1
        while call.more(length, 0.5, states[length - 1]):
            length += 1
        call.verified(length, 0)
        assert length == expected or margin < 1e-5


@pytest.mark.parametrize(("sure", "expected"), [(60.0, 9), (-60.0, 3)])
def test_bounds_hold_however_sure_the_head_is(sure: float, expected: int) -> None:
    rule = SpecDecPP(random_head(0, sure=sure), threshold=0.3, least=3, most=9)
    call, length = rule.start(), 1
    while call.more(length, 1.0, torch.zeros(12)):
        length += 1
    assert length == expected
    assert rule.max_length == 9


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_second_token_is_always_sent(threshold: float) -> None:
    """Of the first nothing is known before the second has been proposed."""
    call = SpecDecPP(random_head(0, sure=-60.0), threshold, least=1, most=9).start()
    assert [call.more(drafted, 1.0, torch.zeros(12)) for drafted in (1, 2)] == [True, False]


def test_calls_do_not_share_their_product() -> None:
    rule = SpecDecPP(random_head(0, sure=1.0), threshold=0.5, least=1, most=9)
    state = torch.zeros(12)  # P(accept) of about 0.7
    first, second = rule.start(), rule.start()
    alone = [first.more(drafted, 1.0, state) for drafted in (1, 2, 3)]
    assert alone == [True, True, False]
    third = rule.start()
    both = [(second.more(drafted, 1.0, state), third.more(drafted, 1.0, state)) for drafted in (1, 2, 3)]
    assert both == [(True, True), (True, True), (False, False)]


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 1.2}, {"threshold": -0.1}, {"threshold": math.nan}, {"least": 0}, {"least": 5, "most": 4},
     {"most": 33}, {"threshold": "0.3"}, {"threshold": None}, {"least": 2.5}, {"most": "20"}, {"most": True}],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        SpecDecPP(random_head(0), **settings)  # type: ignore[arg-type]


def test_a_head_of_the_wrong_type() -> None:
    with pytest.raises(InputError, match="head is 5, but must be a text or a Path"):
        SpecDecPP(5)  # type: ignore[arg-type]
