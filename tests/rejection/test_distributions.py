"""What target and draft draw from, against the warpers of `transformers`, and the numbers that decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_sequences import warpers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from ltd.decoding.acceptance import Sampling
from ltd.rejection.distributions import as_array, draft_distribution, draw, floats, target_distribution, uniforms

INFINITE = float("inf")


def row(*logits: float) -> np.ndarray:
    """As float32."""
    return np.array(logits, dtype=np.float32)


@given(
    st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 1.7]), st.integers(0, 12), st.floats(0.05, 0.999) | st.just(1.0)
)
def test_the_targets_distribution_is_that_of_the_warpers(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.randn(10, generator=torch.Generator().manual_seed(seed)) * 2
    found = target_distribution(floats(as_array(logits)), Sampling(temperature, top_k, top_p))
    wanted = warpers(temperature, min(top_k, 10), top_p)(torch.zeros(1, 1, dtype=torch.long), logits[None])
    np.testing.assert_allclose(found, wanted.softmax(-1)[0].numpy(), rtol=3e-6, atol=1e-9)


def test_equal_logits_are_kept_as_the_operators_keep_them() -> None:
    """All that equal the k-th largest; of the nucleus' edge the smaller ids."""
    assert (target_distribution(row(1.0, 2.0, 1.0, 1.0), Sampling(1.0, 2)) > 0).all()
    np.testing.assert_allclose(target_distribution(row(0.0, 0.0, 0.0, 0.0), Sampling(1.0, 0, 0.5)), [0.5, 0.5, 0, 0])


@pytest.mark.parametrize("wrong", [[0.0, float("nan")], [0.0, INFINITE], [-INFINITE, -INFINITE]])
def test_logits_that_are_not_finite_have_no_distribution(wrong: list[float]) -> None:
    for sampling in (Sampling(1.0), Sampling(1.0, 1), Sampling(1.0, 0, 0.5)):
        assert target_distribution(row(*wrong), sampling) is None


def test_minus_infinity_is_no_chance() -> None:
    assert target_distribution(row(-INFINITE, 3.0), Sampling(0.7)).tolist() == [0.0, 1.0]


def test_far_away_logits_and_small_temperatures() -> None:
    for temperature in (1e-30, 1e-3, 1.0):
        p = target_distribution(row(5e9, -5e9, 5e9), Sampling(temperature))
        np.testing.assert_allclose(p, [0.5, 0.0, 0.5])


def test_the_drafts_distribution_stands_at_its_words() -> None:
    logits = row(1.0, float("nan"), 0.0, -INFINITE)
    q = draft_distribution(logits.copy(), np.array([5, 0, 3, 1]), 7, 0.5)
    first = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(q, [0, 0, 0, 1 - first, 0, first, 0], rtol=1e-6)
    np.testing.assert_allclose(draft_distribution(logits, None, 4, 0.5), [first, 0, 1 - first, 0], rtol=1e-6)
    for nothing in ([-INFINITE] * 2, [float("nan")] * 2, [0.0, INFINITE]):
        assert draft_distribution(row(*nothing), None, 2, 1.0) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_all_types_are_read_exactly(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 8, 50).mul(9).to(dtype)
    logits[0, 0, :2] = torch.tensor([-INFINITE, float("nan")])
    for part in (logits[:, 1::2], logits[0, 0]):
        found, before = floats(as_array(part)), part.float().numpy().copy()
        np.testing.assert_array_equal(found, before)
        found.fill(0.0)  # it is a copy
        np.testing.assert_array_equal(part.float().numpy(), before)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0]), min_size=1, max_size=6).filter(any), st.floats(0, 1))
def test_a_token_is_drawn_for_its_share_of_the_numbers(p: list[float], uniform: float) -> None:
    uniform = min(uniform, 1 - 2**-53)
    token = draw(np.array(p), uniform)
    assert p[token] > 0
    assert sum(p[:token]) <= uniform * sum(p) * (1 + 1e-12)
    assert uniform * sum(p) <= sum(p[: token + 1]) * (1 + 1e-12)


def philox(key: int, counter: list[int]) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011) in whole numbers."""
    most, (k0, k1) = 2**64, (key % 2**64, key >> 64)
    c0, c1, c2, c3 = counter
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (second // most) ^ c1 ^ k0, second % most, (first // most) ^ c3 ^ k1, first % most
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % most, (k1 + 0xBB67AE8584CAA73B) % most
    return [c0, c1, c2, c3]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_numbers_are_philox_at_the_place(seed: int, row: int, position: int) -> None:
    wanted = [word for block in (1, 2) for word in philox(seed, [block, position, row, 0])]
    assert uniforms(seed, row, position, 8).tolist() == [(word >> 11) / 2**53 for word in wanted]
    assert uniforms(seed, row, position, 3).tolist() == uniforms(seed, row, position, 8)[:3].tolist()


def test_the_numbers_of_many_places_are_uniform_and_none_comes_twice() -> None:
    found = np.concatenate([uniforms(1, row, position, 5) for row in range(4) for position in range(200)])
    assert kstest(found, "uniform").pvalue > 1e-3 and len(set(found.tolist())) == len(found)
