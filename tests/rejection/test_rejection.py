"""Recursive rejection of a node's children: its law, by all draws and all outcomes, and what the code decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from noise_reference import place_noise
from rejection_reference import Chances, accept_or_leave, decided, draws, law, outcome
from scipy.stats import binomtest, chisquare

from ltd.rejection.acceptance import reject

NONE, ONE = 0.0, 1.0
weights = st.lists(st.one_of(st.just(NONE), st.floats(1e-3, ONE)), min_size=4, max_size=4)


def normalised(given_weights: Sequence[float]) -> Chances:
    """As chances."""
    total = sum(given_weights)
    assume(total > 0)
    return [weight / total for weight in given_weights]


@given(weights, weights, st.integers(0, 4))
def test_the_rule_gives_the_targets_law(p_weights: Chances, q_weights: Chances, count: int) -> None:
    """Also where tokens have no chance with one of the two, and where q is exhausted."""
    p, q = normalised(p_weights), normalised(q_weights)
    assert law(p, q, count)[0] == pytest.approx(p, abs=1e-9)


@given(weights, weights)
def test_the_first_child_is_accepted_as_often_as_the_two_agree(p_weights: Chances, q_weights: Chances) -> None:
    p, q = normalised(p_weights), normalised(q_weights)
    assert law(p, q, 1)[1] == pytest.approx(sum(map(min, p, q)), abs=1e-9)


def test_more_children_are_accepted_more_often() -> None:
    p, q = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    rates = [law(p, q, count)[1] for count in range(5)]
    assert rates == sorted(rates) and rates[0] == 0.0 and rates[4] == pytest.approx(1.0)


def test_rules_with_a_mistake_have_another_law() -> None:
    """So the tests above can fail: a residual of p alone, and a q that does not sum to 1."""
    p, q = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]

    def forgets_q(p: Chances, q: Chances, token: int) -> tuple[float, Chances]:
        return accept_or_leave(p, q, token)[0], p

    def shrinks_q(p: Chances, q: Chances, token: int) -> tuple[float, Chances]:
        return accept_or_leave(p, [0.7 * chance for chance in q], token)

    for mistaken in (forgets_q, shrinks_q):
        assert max(abs(one - other) for one, other in zip(law(p, q, 2, mistaken)[0], p, strict=True)) > 0.01


def test_dropping_the_unlikeliest_of_the_drawn_children_has_another_law() -> None:
    """Why the shape of a tree may not depend on tokens: here two of three children are kept, by their chances in q."""
    p, q = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    found = np.zeros(4)
    for chance, drawn in draws(q, 3):
        kept = [token for token in drawn if q[token] > min(q[other] for other in drawn)]
        accepted, rest = outcome(p, q, kept)
        found += chance * np.array(rest)
        np.add.at(found, kept, chance * np.array(accepted))
    assert found.sum() == pytest.approx(1.0) and np.abs(found - p).max() > 0.02


numbers = st.lists(st.floats(0.0, 0.999999), min_size=5, max_size=5)


@given(weights, weights, st.permutations(range(4)), st.integers(0, 4), numbers)
def test_the_code_decides_as_the_reference(
    p_weights: Chances, q_weights: Chances, order: list[int], count: int, given_numbers: list[float]
) -> None:
    p, q = normalised(p_weights), normalised(q_weights)
    drawn = sorted(order[:count], key=lambda token: q[token] <= 0)
    wanted = decided(p, q, drawn, given_numbers)
    near = [decided(p, q, drawn, [max(n + shift, 0.0) for n in given_numbers]) for shift in (-1e-9, 1e-9)]
    assume(near == [wanted, wanted])  # on an edge rounding may decide either way
    assert reject(np.array(p), np.array(q), drawn, np.array(given_numbers[: count + 1])) == wanted


@pytest.mark.parametrize(("temperature", "count"), [(1.0, 1), (1.0, 3), (0.5, 2), (2.0, 6)])
def test_drawn_by_the_noise_of_places_the_tokens_have_the_targets_law(temperature: float, count: int) -> None:
    """The largest of logits / temperature + noise are a draw without replacement: over 6,000 places, six words."""
    generator = np.random.default_rng(5)
    p, logits = generator.dirichlet(np.ones(6)), generator.normal(size=6)
    q = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    counts, accepted, places = np.zeros(6), 0, 6000
    for place in range(places):
        drawn = np.argsort(-(logits / temperature + place_noise(3, 0, place, 6)))[:count].tolist()
        which, token = reject(p.copy(), q.copy(), drawn, generator.random(count + 1))
        accepted += which is not None
        counts[token] += 1
    assert chisquare(counts, p * places).pvalue > 1e-3
    assert binomtest(accepted, places, min(law(p.tolist(), q.tolist(), count)[1], 1.0)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("p", "q", "drawn", "given_numbers", "expected"),
    [
        ([0.5, 0.5], [], [], [0.5], (None, 1)),  # no children
        ([0.5, 0.5], [], [], [0.0], (None, 0)),
        ([0.0, 1.0], [1.0, 0.0], [0], [0.0, 0.0], (None, 1)),  # p(c) = 0 is never accepted
        ([0.0, 1.0], [1.0, 0.0], [0, 1], [0.0, 0.0, 0.9], (None, 1)),  # q is exhausted: 1 was not drawn
        ([0.3, 0.7], [0.3, 0.7], [1, 0], [0.99, 0.99, 0.99], (0, 1)),  # where p is q, the first is accepted
        ([1.0, 0.0], [0.0, 0.0], [1, 0], [0.0, 0.0, 0.0], (None, 0)),  # q is none
    ],
)
def test_cases_by_hand(
    p: Chances, q: Chances, drawn: list[int], given_numbers: list[float], expected: tuple[Any, int]
) -> None:
    assert reject(np.array(p), np.array(q), drawn, np.array(given_numbers)) == expected


def test_a_rejection_by_rounding_draws_from_p() -> None:
    """p is below q everywhere, as float64 has them: what is left of it is nothing."""
    p = np.array([0.25, 0.25, 0.5])
    q = p * (1 + 1e-15)
    seen = Counter(reject(p.copy(), q.copy(), [2, 0], np.array([1 - 2**-53, 0.0, last]))[1] for last in (0.1, 0.3, 0.9))
    assert seen == {0: 1, 1: 1, 2: 1}
