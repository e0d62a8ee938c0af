"""draft_token and accept_chain against plain float64 arithmetic, with the same random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from chain_numbers import ACCEPTANCE, DRAFT, RESIDUAL, TARGET, number
from hypothesis import given, settings
from hypothesis import strategies as st
from near_draws import may_draw
from op_cases import DTYPES, every_kernel, strided
from operator_reference import warped_probabilities
from torch import Tensor

from ltd import ops
from ltd.errors import InputError

SEED = 987654321
ROUNDING = 3e-6  # of cumulative float32 weights


def array(logits: Tensor) -> np.ndarray:
    return logits.float().numpy()


def inverted(probabilities: np.ndarray, uniform: float) -> set[int]:
    """The tokens that inverting the cumulative distribution may give, rounding allowed for."""
    sums = np.cumsum(probabilities / probabilities.sum())
    last = int(np.flatnonzero(probabilities)[-1])
    return {min(int(np.searchsorted(sums, uniform + shift, "right")), last) for shift in (-ROUNDING, 0.0, ROUNDING)}


def expected(
    logits: Tensor, draft: Tensor, words: Tensor | None, drafted: list[int], warp: tuple, cycle: int, position: int
) -> set[tuple[int, int]]:
    """All results that are right, rounding allowed for."""
    ids = np.arange(logits.shape[1]) if words is None else words.numpy()
    for i, choice in enumerate(drafted):
        p, q = warped_probabilities(array(logits[i]), *warp), np.zeros(logits.shape[1])
        q[ids] = warped_probabilities(array(draft[i]), *warp)
        token = int(ids[choice])
        rest = np.maximum(p - q, 0.0)
        margin = number(SEED, cycle, position + i, ACCEPTANCE) * q[token] - p[token]
        if margin <= -1e-5 * (p[token] + q[token]):
            continue
        rejected = set()
        if rest.sum() > 0:
            rejected = {(i, other) for other in inverted(rest, number(SEED, cycle, position + i, RESIDUAL))}
        if margin <= 1e-5 * (p[token] + q[token]):
            return rejected | expected_from(i, logits, draft, ids, drafted, warp, cycle, position)
        return rejected
    last = len(drafted)
    p = warped_probabilities(array(logits[last]), *warp)
    return {(last, token) for token in inverted(p, number(SEED, cycle, position + last, TARGET))}


def expected_from(
    kept: int,
    logits: Tensor,
    draft: Tensor,
    ids: np.ndarray,
    drafted: list[int],
    warp: tuple,
    cycle: int,
    position: int,
) -> set[tuple[int, int]]:
    """The results where token `kept` is kept."""
    rest = expected(
        logits[kept + 1 :],
        draft[kept + 1 :],
        torch.from_numpy(ids),
        drafted[kept + 1 :],
        warp,
        cycle,
        position + kept + 1,
    )
    return {(kept + 1 + more, token) for more, token in rest}


@settings(max_examples=50)
@given(
    count=st.integers(0, 6),
    vocabulary=st.sampled_from([2, 7, 40, 2100]),
    share=st.sampled_from([None, 0.3, 0.9]),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.793, 0.317]),
    alike=st.booleans(),
    ties=st.booleans(),
    roomy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_sampled_chains(count, vocabulary, share, dtype, temperature, top_k, top_p, alike, ties, roomy, seed):
    torch.manual_seed(seed)
    words = None if share is None else torch.randperm(vocabulary)[: max(1, int(share * vocabulary))]
    logits = (2 * torch.randn(count + 1, vocabulary)).to(dtype)
    own = logits[:count] if words is None else logits[:count, words]
    draft = own + (0.3 if alike else 3.0) * torch.randn(own.shape).to(dtype)
    if ties:
        logits, draft = logits.round(), draft.round()
    logits[:, 0] = -math.inf
    if draft.shape[1] > 1:
        draft[:, -1] = -math.inf
    warp, cycle, position = (temperature, top_k, top_p), seed % 1000, seed % 77
    draft, logits = (strided(draft), strided(logits)) if roomy else (draft.contiguous(), logits)
    for _ in every_kernel():
        drafted = []
        for i in range(count):
            q = warped_probabilities(array(draft[i]), *warp)
            token, chance = ops.draft_token(draft[i][None], *warp, SEED, cycle, position + i)
            assert int(token) in inverted(q, number(SEED, cycle, position + i, DRAFT))
            assert float(chance) == pytest.approx(q[int(token)], rel=1e-5)
            drafted.append(int(token))
        kept, token = ops.accept_chain(
            logits, draft, words, torch.tensor(drafted, dtype=torch.int64), *warp, SEED, cycle, position
        ).tolist()
        assert (kept, token) in expected(logits, draft, words, drafted, warp, cycle, position)


@settings(max_examples=30)
@given(
    count=st.integers(0, 6),
    vocabulary=st.sampled_from([1, 3, 40, 5000]),
    dtype=st.sampled_from(DTYPES),
    trimmed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_greedy_chains(count, vocabulary, dtype, trimmed, seed):
    torch.manual_seed(seed)
    words = torch.randperm(vocabulary)[: vocabulary // 2 + 1] if trimmed else None
    logits = torch.randint(-3, 4, (count + 1, vocabulary)).to(dtype)  # with ties
    choices = []
    for row in logits[:count]:
        mine = row if words is None else row[words]
        chosen = int(np.argmax(array(mine)))
        for _ in every_kernel():
            token, chance = ops.draft_token(mine[None], 0.0, 0, 1.0, SEED, 0, 0)
            assert int(token) == chosen
            assert float(chance) == pytest.approx(warped_probabilities(array(mine), 1.0, 0, 1.0)[chosen], rel=1e-5)
        choices.append(chosen)
    best = [int(np.argmax(array(row))) for row in logits]
    tokens = choices if words is None else words[choices].tolist() if choices else []
    kept = next((i for i in range(count) if tokens[i] != best[i]), count)
    drafted = torch.tensor(choices, dtype=torch.int64)
    for _ in every_kernel():
        result = ops.accept_chain(logits, None, words, drafted, 0.0, 0, 1.0, SEED, 0, 0)
        assert result.tolist() == [kept, best[kept]]


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("warp", [(1.0, 0, 1.0), (0.7, 4, 0.9)])
def test_what_comes_out_has_the_targets_distribution(warp, trimmed):
    """Over many cycles of draft_token and accept_chain with K = 1: the first token's distribution is p."""
    torch.manual_seed(5)
    logits, trials = torch.randn(2, 9) * 1.5, 20_000
    words = torch.tensor([8, 1, 3, 4, 6]) if trimmed else None
    draft = logits[:1] if words is None else logits[:1, words]
    draft = draft + torch.randn(draft.shape)
    counts, kept = np.zeros(9), 0
    for cycle in range(trials):
        choice, _ = ops.draft_token(draft, *warp, 1, cycle, 30)
        accepted, token = ops.accept_chain(logits, draft, words, choice[None], *warp, 1, cycle, 30).tolist()
        first = token if accepted == 0 else int(choice if words is None else words[choice])
        counts[first] += 1
        kept += accepted
    p, q = warped_probabilities(logits[0].numpy(), *warp), np.zeros(9)
    q[np.arange(9) if words is None else words.numpy()] = warped_probabilities(draft[0].numpy(), *warp)
    spread = np.sqrt(trials * p * (1 - p))
    assert np.all(np.abs(counts - trials * p) <= 4 * spread + 1e-9)
    chance = np.minimum(p, q).sum()  # of being accepted
    assert 0.05 < chance < 0.95
    assert abs(kept - trials * chance) < 4 * math.sqrt(trials * chance * (1 - chance))


def test_a_draft_that_is_the_target_is_kept_whole():
    torch.manual_seed(0)
    logits = torch.randn(31, 2000)
    for temperature in (0.5, 1.0):
        for cycle in range(20):
            drafted = [
                ops.draft_token(row[None], temperature, 50, 0.9, 4, cycle, i)[0] for i, row in enumerate(logits[:30])
            ]
            result = ops.accept_chain(
                logits, logits[:30], None, torch.stack(drafted), temperature, 50, 0.9, 4, cycle, 0
            )
            assert result[0] == 30


def test_a_draft_that_the_target_never_follows():
    """Where p is 0 for all the draft's words, the residual is p."""
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 2.0]] * 2)
    draft, words = torch.zeros(1, 2), torch.tensor([0, 2])
    tokens = [
        ops.accept_chain(logits, draft, words, torch.tensor([cycle % 2]), 1.0, 0, 1.0, 0, cycle, 0).tolist()
        for cycle in range(2000)
    ]
    assert {kept for kept, _ in tokens} == {0}
    share = sum(token == 3 for _, token in tokens) / len(tokens)
    assert share == pytest.approx(math.exp(2) / (math.exp(1) + math.exp(2)), abs=0.04)
    assert {token for _, token in tokens} == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(bad, temperature):
    def spoilt(logits: Tensor) -> Tensor:
        return torch.full_like(logits, bad) if bad == -math.inf else logits.index_fill(-1, torch.tensor([1]), bad)

    torch.manual_seed(1)
    good = torch.full((3, 40), -math.inf)
    good[:, 7] = 0.0
    warp, drafted = (temperature, 0, 1.0, 5, 0, 0), torch.tensor([7, 7])
    assert int(ops.draft_token(spoilt(good[:1]), *warp)[0]) == -1
    for row in range(3):
        logits = good.clone()
        logits[row] = spoilt(logits[row])
        for _ in every_kernel():
            assert ops.accept_chain(logits, good[:2], None, drafted, *warp).tolist() == [row, -1]
    if temperature > 0:  # nothing was drawn from such a row, so the token is the target's own
        draft = good[:2].clone()
        draft[0] = spoilt(draft[0])
        for _ in every_kernel():
            assert ops.accept_chain(good, draft, None, drafted, *warp).tolist() == [2, 7]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_sizes(dtype):
    torch.manual_seed(2)
    vocabulary = 262_144
    words = torch.randperm(vocabulary)[:151_936]
    logits = torch.randn(33, vocabulary).to(dtype)
    draft = logits[:32, words].contiguous()
    best = 100.0
    drafted = torch.randint(len(words), (32,))
    logits[torch.arange(32), words[drafted]] = best
    draft[torch.arange(32), drafted] = best
    logits[32, vocabulary - 1] = 200.0
    for temperature in (0.0, 1.0):
        for _ in every_kernel():
            result = ops.accept_chain(logits, draft, words, drafted, temperature, 0, 1.0, 0, 0, 0)
            assert result.tolist() == [32, vocabulary - 1]


def test_random_numbers_of_different_uses_differ():
    """The draft's token, its acceptance, what replaces it, and another cycle's share no random number."""
    numbers = {
        number(seed, cycle, position, use)
        for seed in (1, 2)
        for cycle in range(3)
        for position in range(4)
        for use in range(4)
    }
    assert len(numbers) == 2 * 3 * 4 * 4


def arguments() -> dict[str, tuple]:
    draft, target = torch.randn(2, 5), torch.randn(3, 9)
    settings = (0.9, 3, 0.8, 1, 2, 3)
    return {
        "draft_token": (draft[:1], *settings),
        "accept_chain": (target, draft, torch.arange(5), torch.tensor([1, 4]), *settings),
    }


@pytest.mark.parametrize("name", arguments())
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.ltd, name).default, arguments()[name])


GOOD = {
    "logits": torch.zeros(3, 9),
    "draft_logits": torch.zeros(2, 5),
    "words": torch.arange(5),
    "drafted": torch.tensor([1, 4]),
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "cycle": 0,
    "position": 0,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 9)}, "logits must have size 3 in dimension 0"),
        ({"logits": torch.zeros(3, 0)}, "at least one column"),
        ({"logits": torch.zeros(3, 9).long()}, "logits must be of type"),
        ({"logits": torch.zeros(9, 3).t()}, "contiguous in its last dimension"),
        ({"draft_logits": None}, "draft_logits must be given"),
        ({"draft_logits": torch.zeros(2, 6)}, "draft_logits must have size 5"),
        ({"draft_logits": torch.zeros(2, 5).bfloat16()}, "same type as logits"),
        ({"words": torch.tensor([0, 1, 2, 3, 9])}, r"words\[4\] must be 0 to 8, but is 9"),
        ({"words": torch.arange(5).int()}, "words must be of type Long"),
        ({"drafted": torch.tensor([1, 5])}, r"drafted\[1\] must be 0 to 4, but is 5"),
        ({"drafted": torch.tensor([-1, 2])}, r"drafted\[0\] must be 0 to 4, but is -1"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": math.nan}, "temperature must be 0"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(InputError, match=f"accept_chain: .*{message}"):
        ops.accept_chain(**{**GOOD, **change})
    if "logits" not in change and change.keys() & {"temperature", "top_k", "top_p"}:
        settings = {name: GOOD[name] for name in ("temperature", "top_k", "top_p", "seed", "cycle", "position")}
        with pytest.raises(InputError, match=f"draft_token: .*{message}"):
            ops.draft_token(torch.zeros(1, 9), **{**settings, **change})


def test_a_draft_of_one_row_is_wanted():
    with pytest.raises(InputError, match="logits must have size 1 in dimension 0"):
        ops.draft_token(torch.zeros(2, 9), 1.0, 0, 1.0, 0, 0, 0)
    with pytest.raises(InputError, match="at least one column"):
        ops.draft_token(torch.zeros(1, 0), 1.0, 0, 1.0, 0, 0, 0)


def test_a_chain_of_nothing_is_plain_sampling():
    """With K = 0 it draws from the target's distribution."""
    torch.manual_seed(3)
    logits, nothing = torch.randn(1, 500), torch.zeros(0, dtype=torch.int64)
    for position in range(50):
        kept, token = ops.accept_chain(logits, None, None, nothing, 0.8, 40, 0.95, 6, 2, position).tolist()
        assert kept == 0
        assert may_draw(logits[0], (0.8, 40, 0.95), token, number(6, 2, position, TARGET))
