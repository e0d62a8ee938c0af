"""Both attentions over a session against a softmax over the keys that each token may see, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltd.engine.attention import Attention, attend_in_lockstep, attend_tree
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache

LAYERS, KV_HEADS, GROUP, WIDTH = 2, 2, 3, 8
SCALE = 0.3


def expected(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, first: int, window: int) -> torch.Tensor:
    """(B, N, Hq, d): query i stands at position first + i, and key j at position j."""
    batch, heads, count, _ = query.shape
    result = torch.empty(batch, count, heads, query.shape[3])
    for row in range(batch):
        for head in range(heads):
            for place in range(count):
                seen = [j for j in range(first + place + 1) if not window or first + place - j < window]
                scores = keys[row, head // GROUP, seen] @ query[row, head, place] * SCALE
                result[row, place, head] = scores.softmax(0) @ values[row, head // GROUP, seen]
    return result


@pytest.mark.parametrize("attention", [attend_tree, attend_in_lockstep])
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 3),
    prefix=st.integers(0, 9),
    count=st.integers(1, 7),
    window=st.integers(0, 6),
)
def test_chains_see_what_comes_before_them(
    attention: Attention, seed: int, rows: int, prefix: int, count: int, window: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cache = KVCache(LAYERS, rows, KV_HEADS, 20, WIDTH, torch.float32, torch.device("cpu"))
    # What lies behind the new rows must not matter.
    cache.keys.normal_(generator=generator)
    cache.values.normal_(generator=generator)
    cache.advance([prefix] * rows)
    query = torch.randn(rows, KV_HEADS * GROUP, count, WIDTH, generator=generator)
    key, value = torch.randn(2, rows, KV_HEADS, count, WIDTH, generator=generator)
    keys, values = (
        torch.cat([whole[1, :, :, :prefix], new], dim=2) for whole, new in ((cache.keys, key), (cache.values, value))
    )
    other = cache.keys[0].clone()
    result = attention(query, key, value, 1, cache, TreeBlock.chain(cache.lengths, count), SCALE, window)
    torch.testing.assert_close(result, expected(query, keys, values, prefix, window), rtol=1e-4, atol=1e-5)
    assert torch.equal(cache.keys[1, :, :, : prefix + count], keys)
    assert torch.equal(cache.values[1, :, :, : prefix + count], values)
    assert torch.equal(cache.keys[0], other)
    assert cache.host_lengths == [prefix] * rows


def test_lockstep_knows_no_trees() -> None:
    cache = KVCache(1, 1, 1, 20, WIDTH, torch.float32, torch.device("cpu"))
    query = torch.zeros(1, 1, 2, WIDTH)
    block = TreeBlock(cache.lengths, torch.tensor([[0, 1]]), torch.tensor([[[1], [3]]]))
    with pytest.raises(AssertionError):
        attend_in_lockstep(query, query, query, 0, cache, block, SCALE, 0)
