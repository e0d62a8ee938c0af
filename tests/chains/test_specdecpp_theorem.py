"""SpecDec++'s theorem on a small decision process: the best way to choose a chain's length is a threshold.

A drafted token is accepted with a chance that is known once the draft has read it, which is when the next one has been
proposed. Chances are drawn from a few values. A draft forward and a verification cost their seconds, and what is
maximised is tokens per second over many cycles, E[gain] / E[seconds]. Policies may look at all chances so far.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltd.chains.specdecpp import SpecDecPP
from ltd.policies.baselines.acceptance_head import AcceptanceHead

History = tuple[float, ...]
"""The chances of the tokens that have been read: all drafted ones but the newest."""


@dataclass(frozen=True)
class Process:
    """Chances with their probabilities, costs in seconds, and the longest chain."""

    chances: dict[float, float]
    draft: float
    verify: float
    most: int

    @property
    def mean(self) -> float:
        return sum(chance * weight for chance, weight in self.chances.items())

    def histories(self) -> list[History]:
        """All at which there is something to decide: chains of 2 … most - 1 tokens."""
        return [h for read in range(1, self.most - 1) for h in itertools.product(self.chances, repeat=read)]

    def expected(self, goes_on: dict[History, bool], read: History = ()) -> tuple[float, float]:
        """Gain and seconds of a cycle that has got so far, by walking through all that can come."""
        length = len(read) + 1
        if length == self.most or (length >= 2 and not goes_on[read]):
            products = itertools.accumulate(read, initial=1.0, func=lambda a, b: a * b)
            alive = list(products)
            return 1 + sum(alive[1:]) + alive[-1] * self.mean, length * self.draft + self.verify
        outcomes = [(weight, self.expected(goes_on, (*read, chance))) for chance, weight in self.chances.items()]
        return sum(w * g for w, (g, _) in outcomes), sum(w * s for w, (_, s) in outcomes)

    def rate(self, goes_on: dict[History, bool]) -> float:
        gain, seconds = self.expected(goes_on)
        return gain / seconds


def best_policy(process: Process) -> tuple[dict[History, bool], float]:
    """Dynamic programming over histories, from the longest back, at the rate that it reaches itself (Dinkelbach)."""
    rate, policy = 0.0, {}
    for _ in range(50):
        policy = {}

        def worth(read: History, rate: float = rate, policy: dict[History, bool] = policy) -> float:
            """Of what comes after this point: tokens, less what their seconds are worth."""
            alive, length = math.prod(read), len(read) + 1
            if length == process.most:
                return 0.0
            ahead = sum(w * worth((*read, chance)) for chance, w in process.chances.items())
            # One more token is sent: it counts if all before it are accepted, the newest of which is not yet read.
            going = alive * process.mean * process.mean - rate * process.draft + ahead
            if length >= 2:
                policy[read] = going > 0
                return max(going, 0.0)
            return going

        worth(())
        reached = process.rate(policy)
        if reached <= rate * (1 + 1e-13):
            break
        rate = reached
    return policy, rate


def threshold_policy(process: Process, threshold: float) -> dict[History, bool]:
    return {read: 1 - math.prod(read) <= threshold for read in process.histories()}


@st.composite
def made_processes(draw: st.DrawFn) -> Process:
    values = draw(st.lists(st.integers(5, 99), min_size=2, max_size=3, unique=True))
    weights = draw(st.lists(st.integers(1, 5), min_size=len(values), max_size=len(values)))
    chances = {value / 100: weight / sum(weights) for value, weight in zip(values, weights, strict=True)}
    return Process(chances, draw(st.floats(0.02, 0.8)), draw(st.floats(0.5, 2.0)), draw(st.integers(3, 6)))


processes = made_processes()


@settings(max_examples=60)
@given(process=processes)
def test_the_optimal_policy_is_a_threshold(process: Process) -> None:
    policy, rate = best_policy(process)
    going = [math.prod(read) for read, goes_on in policy.items() if goes_on]
    stopping = [math.prod(read) for read, goes_on in policy.items() if not goes_on]
    # Whatever the chances were one by one: where it stops, a rejection is likelier than wherever it goes on.
    assert min(going, default=1.0) >= max(stopping, default=0.0) - 1e-12
    # And this is where: what one more token is expected to gain equals what its forward costs at this rate.
    threshold = 1 - rate * process.draft / process.mean**2
    if all(abs(1 - product - threshold) > 1e-9 for product in going + stopping):
        assert threshold_policy(process, threshold) == policy
    every = [-1.0, *(1 - product for product in going + stopping)]
    assert max(process.rate(threshold_policy(process, value)) for value in every) == pytest.approx(rate, rel=1e-9)


@settings(max_examples=25)
@given(process=processes)
def test_no_policy_of_any_kind_is_better(process: Process) -> None:
    """Without dynamic programming: every one of up to 64 (two chances) or 8 (three) ways to decide."""
    small = Process(process.chances, process.draft, process.verify, 4 if len(process.chances) == 2 else 3)
    histories = small.histories()
    ways = itertools.product([False, True], repeat=len(histories))
    best = max(small.rate(dict(zip(histories, way, strict=True))) for way in ways)
    assert best_policy(small)[1] == pytest.approx(best, rel=1e-12)


@settings(max_examples=30)
@given(process=processes)
def test_the_rule_decides_as_the_optimum_does(process: Process) -> None:
    """`SpecDecPP` with a head that knows the chances, and the threshold of the theorem."""
    policy, rate = best_policy(process)
    threshold = 1 - rate * process.draft / process.mean**2
    if not 0 <= threshold <= 1 or any(abs(1 - math.prod(read) - threshold) < 1e-5 for read in policy):
        return
    rule = SpecDecPP(knowing_head(), threshold, least=1, most=process.most)
    for read in itertools.product(process.chances, repeat=process.most - 1):
        call, length = rule.start(), 1
        while call.more(length, 1.0, torch.tensor([0.0 if length == 1 else logit(read[length - 2])])):
            length += 1
        expected = next((n for n in range(2, process.most) if not policy[read[: n - 1]]), process.most)
        assert length == expected


def logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


def knowing_head() -> AcceptanceHead:
    """Its one input is the logit of the chance."""
    head = AcceptanceHead(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.out.weight[1, 0] = 1.0
    return head
