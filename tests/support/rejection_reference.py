"""Recursive rejection without replacement in plain Python, and the law that it gives, by all draws and all outcomes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

Chances = list[float]
Accept = Callable[[Chances, Chances, int], tuple[float, Chances]]


def accept_or_leave(p: Chances, q: Chances, token: int) -> tuple[float, Chances]:
    """The chance that a drawn token is accepted, and what p becomes where it is not."""
    chance = min(1.0, p[token] / q[token])
    left = [max(one - other, 0.0) for one, other in zip(p, q, strict=True)]
    total = sum(left)
    return chance, [each / total for each in left] if total > 0 else p


def without(q: Chances, token: int) -> Chances:
    """A distribution without one token; all 0 if there is nothing else."""
    left = [0.0 if other == token else chance for other, chance in enumerate(q)]
    total = sum(left)
    return [chance / total for chance in left] if total > 0 else left


def draws(q: Chances, count: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """All draws of up to `count` tokens without replacement, in order, with their chances; fewer where q has fewer."""
    count = min(count, sum(chance > 0 for chance in q))
    for tokens in itertools.permutations([token for token, chance in enumerate(q) if chance > 0], count):
        chance, left = 1.0, q
        for token in tokens:
            chance, left = chance * left[token], without(left, token)
        yield chance, tokens


def outcome(
    p: Chances, q: Chances, drawn: Sequence[int], accept: Accept = accept_or_leave
) -> tuple[list[float], Chances]:
    """The chance of each drawn token to be the accepted one, and by token that of the one drawn where none is."""
    reached, accepted = 1.0, []
    for token in drawn:
        chance, left = accept(p, q, token)
        accepted.append(reached * chance)
        reached, p, q = reached * (1.0 - chance), left, without(q, token)
    return accepted, [reached * chance for chance in p]


def law(p: Chances, q: Chances, count: int, accept: Accept = accept_or_leave) -> tuple[Chances, float]:
    """The exact law of the token behind a node with `count` children, and the chance that a child is accepted."""
    found, rate = [0.0] * len(p), 0.0
    for chance, drawn in draws(q, count):
        accepted, rest = outcome(p, q, drawn, accept)
        for token, share in zip(drawn, accepted, strict=True):
            found[token] += chance * share
        rate += chance * sum(accepted)
        found = [one + chance * other for one, other in zip(found, rest, strict=True)]
    return found, rate


def decided(p: Chances, q: Chances, drawn: Sequence[int], numbers: Sequence[float]) -> tuple[int | None, int]:
    """What the numbers decide: which of the drawn tokens is accepted, if any, and the token."""
    for place, token in enumerate(drawn):
        if q[token] <= 0.0:
            break
        chance, left = accept_or_leave(p, q, token)
        if numbers[place] < chance:
            return place, token
        p, q = left, without(q, token)
    wanted, summed = numbers[len(drawn)] * sum(p), 0.0
    for token, chance in enumerate(p):
        summed += chance
        if summed > wanted:
            return None, token
    raise AssertionError("p has no chances")
