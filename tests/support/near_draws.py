"""Whether tokens that two devices drew otherwise are both right: a draw so near to a boundary that rounding decides.

Weights are float32 and differ by some units in the last place between devices, and with them all cumulative sums. So
where results are not equal, each must be what its random number draws up to `MARGIN` of a distribution's mass, or of
the tokens that a nucleus may keep the one with the largest value up to `MARGIN`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from chain_numbers import ACCEPTANCE, DRAFT, RESIDUAL, TARGET, number
from noise_reference import place_noise
from operator_reference import warped_probabilities
from torch import Tensor

MARGIN = 1e-5

Warp = tuple[float, int, float]


def distributions(logits: Tensor, warp: Warp) -> Iterator[np.ndarray]:
    """float64 probabilities of a row of logits, for every place at which rounding may cut its nucleus."""
    temperature, top_k, top_p = warp
    for shift in (0.0, -MARGIN, MARGIN) if top_p < 1 else (0.0,):
        yield warped_probabilities(logits.float().numpy(), temperature, top_k, min(1.0, max(top_p + shift, 1e-12)))


def draws(weights: np.ndarray, token: int, chance: float, margin: float = MARGIN) -> bool:
    """Whether inverting the cumulative distribution of these weights at `chance` may give the token."""
    if not 0 <= token < len(weights) or weights[token] <= 0:
        return False
    after = weights[: token + 1].sum() / weights.sum()
    return after - weights[token] / weights.sum() - margin <= chance <= after + margin


def may_draw(logits: Tensor, warp: Warp, token: int, chance: float) -> bool:
    """Whether the token is one that `chance` draws from a row of logits."""
    return any(draws(probabilities, token, chance) for probabilities in distributions(logits, warp))


def may_sample(logits: Tensor, warp: Warp, token: int, noise: np.ndarray) -> bool:
    """Whether the token is the one with the largest logit / temperature + noise, of those that may stay."""
    values = logits.double().numpy() / warp[0] + noise
    return 0 <= token < len(values) and any(
        probabilities[token] > 0 and values[token] >= values[probabilities > 0].max() - MARGIN
        for probabilities in distributions(logits, warp)
    )


def right_walk(arguments: Sequence, b: int, path: list[int], tokens: list[int], capacity: int) -> bool:
    """Whether accept_sample may have walked so through row b of its batch."""
    logits, node_tokens, first_child, next_sibling, positions, rows, *warp, seed = arguments[:10]
    node = 0
    for step, (visited, token) in enumerate(zip(path, tokens, strict=True)):
        noise = place_noise(int(seed), int(rows[b]), int(positions[b, node]), logits.shape[2])
        if visited != node or not may_sample(logits[b, node], tuple(warp), token, noise):
            return False
        child = int(first_child[b, node])
        while child >= 0 and int(node_tokens[b, child]) != token:
            child = int(next_sibling[b, child])
        if child < 0 or step + 1 == capacity:
            return step + 1 == len(path)
        node = child
    return False


def right_samples(arguments: Sequence, results: Sequence[Tensor]) -> bool:
    """Whether the path, tokens and counts that accept_sample has written may be its."""
    path, tokens, gained = results[-3:]
    return all(
        right_walk(arguments, b, path[b, :count].tolist(), tokens[b, :count].tolist(), path.shape[1])
        for b, count in enumerate(gained.tolist())
    )


def right_draft(arguments: Sequence, results: Sequence[Tensor]) -> bool:
    """Whether draft_token may have drawn this token, with this probability."""
    logits, *warp, seed, cycle, position = arguments
    token, drawn_with = int(results[0]), float(results[1])
    chance = number(seed, cycle, position, DRAFT)
    return any(
        draws(probabilities, token, chance) and abs(probabilities[token] - drawn_with) <= 1e-4
        for probabilities in distributions(logits[0], tuple(warp))
    )


def right_chain(arguments: Sequence, results: Sequence[Tensor]) -> bool:
    """Whether accept_chain may have kept so many of the drafted tokens of all words, and drawn this one behind them."""
    logits, draft, words, drafted, *warp, seed, cycle, position = arguments
    assert words is None
    kept, token = results[0].tolist()
    chance = lambda row, use: number(seed, cycle, position + row, use)  # noqa: E731

    def at(row: int, right: Callable[[np.ndarray, np.ndarray], bool]) -> bool:
        both = (distributions(given[row], tuple(warp)) for given in (logits, draft))
        return any(right(p, q) for p, q in itertools.product(*both))

    def too_much(row: int, p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
        """How far the draw is above the chance of acceptance, and what of it rounding may decide."""
        drawn = int(drafted[row])
        return chance(row, ACCEPTANCE) * q[drawn] - p[drawn], MARGIN * (p[drawn] + q[drawn])

    def keeps(row: int, p: np.ndarray, q: np.ndarray) -> bool:
        excess, margin = too_much(row, p, q)
        return excess <= margin

    def replaces(row: int, p: np.ndarray, q: np.ndarray) -> bool:
        excess, margin = too_much(row, p, q)
        rest = np.maximum(p - q, 0.0)
        return excess >= -margin and draws(rest, token, chance(row, RESIDUAL), MARGIN / max(rest.sum(), MARGIN))

    if not all(at(row, lambda p, q, row=row: keeps(row, p, q)) for row in range(kept)):
        return False
    if kept < len(drafted):
        return at(kept, lambda p, q: replaces(kept, p, q))
    return may_draw(logits[kept], tuple(warp), token, chance(kept, TARGET))


RIGHT: dict[str, Callable[[Sequence, Sequence[Tensor]], bool]] = {
    "accept_sample": right_samples,
    "draft_token": right_draft,
    "accept_chain": right_chain,
}
