"""What is kept of earlier texts: which, how much of it, and rows that leave a cache and come into another."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltd.engine.kept_texts import KeptText, KeptTexts, alike
from ltd.engine.kv_cache import CUTS, CacheRows, KVCache, cut_for

LAYERS, HEADS, WIDTH = 2, 3, 4
ROW_BYTES = 2 * LAYERS * HEADS * WIDTH * 4


def new_cache(batch: int, capacity: int = 256) -> KVCache:
    cache = KVCache(LAYERS, batch, HEADS, capacity, WIDTH, torch.float32, torch.device("cpu"))
    torch.manual_seed(capacity)
    cache.keys.normal_()
    cache.values.normal_()
    return cache


@dataclass(frozen=True)
class Drafted:
    length: int
    nbytes: int = 0


def text(tokens: str, rows: int | None = None, draft: object = None, drafted: int | None = None) -> KeptText:
    """One of letters, with rows for all but the last unless so many are said."""
    cache, ids = new_cache(1), np.array(list(map(ord, tokens)), dtype=np.int64)
    count = len(tokens) - 1 if rows is None else rows
    cache.set_lengths([count])
    read = None if drafted is None else Drafted(drafted)
    return KeptText(ids, cache.copy_rows(0, count), len(tokens), 256, draft, read)


def names(texts: KeptTexts) -> list[str]:
    return ["".join(map(chr, each.tokens)) for each in texts._texts]


@pytest.mark.parametrize("count", [0, 1, 100, 256])
def test_rows_go_from_one_cache_to_another(count: int) -> None:
    source, goal = new_cache(3), new_cache(2, 512)
    source.set_lengths([1, count, 256])
    goal.set_lengths([7, 0])
    rows = source.copy_rows(1, count)
    before, others = source.keys[:, 1, :, :count].clone(), goal.keys[:, 0].clone()
    source.keys.zero_()  # a copy is of its own, also one of a whole cache
    assert torch.equal(rows.keys, before) and len(rows) == count
    assert rows.nbytes == count * source.row_bytes == count * ROW_BYTES
    goal.take_rows(1, rows, count // 2)
    assert goal.host_lengths == goal.lengths.tolist() == [7, count // 2]
    assert torch.equal(goal.keys[:, 1, :, : count // 2], before[:, :, : count // 2])
    assert torch.equal(goal.values[:, 1, :, : count // 2], source.values[:, 1, :, : count // 2])
    assert torch.equal(goal.keys[:, 0], others)


def test_a_whole_cache_is_copied_too() -> None:
    cache = new_cache(1)
    cache.set_lengths([256])
    assert cache.copy_rows(0, 256).keys.data_ptr() != cache.keys.data_ptr()


@given(one=st.lists(st.integers(0, 2), max_size=9), other=st.lists(st.integers(0, 2), max_size=9))
def test_what_texts_have_in_common(one: list[int], other: list[int]) -> None:
    expected = max(n for n in range(min(len(one), len(other)) + 1) if one[:n] == other[:n])
    assert alike(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)) == expected


@given(rows=st.integers(1, 2 * CUTS[-1]), room=st.integers(0, 2 * CUTS[-1]))
def test_work_is_cut_for_the_first_cut_that_holds_it(rows: int, room: int) -> None:
    capacity = rows + room
    assert cut_for(rows, capacity) == min([cut for cut in (*CUTS, capacity) if cut >= rows and cut <= capacity])


@pytest.mark.parametrize(
    ("capacity", "rows", "alike_on_a_gpu"),
    [
        (1024, 512, True),
        (1024, 513, True),
        (2048, 512, True),
        (2048, 513, False),
        (4096, 900, False),
        (768, 700, False),
    ],
)
def test_a_gpu_reads_by_the_capacity_where_no_cut_is_smaller(capacity: int, rows: int, alike_on_a_gpu: bool) -> None:
    cache = new_cache(1, 1024)
    assert cache.reads_as(capacity, rows)
    cache.counters = torch.zeros(1, dtype=torch.int32)  # as a GPU's cache has them
    assert cache.reads_as(capacity, rows) == alike_on_a_gpu


def test_the_text_that_is_worth_most_is_found_and_stays_longest() -> None:
    texts = KeptTexts()
    assert texts.find("now", lambda _: 1) == (None, 0)
    for tokens in ("abcd", "abxy", "zzzz"):
        texts.add("now", text(tokens), 1 << 20)
    found, count = texts.find("now", lambda each: alike(each.tokens, text("abxq").tokens))
    assert found is not None and count == 3 and names(texts) == ["abcd", "zzzz", "abxy"]
    assert texts.find("now", lambda _: 0) == (None, 0) and texts.find("now", lambda _: -1) == (None, 0)
    size = text("abcd").nbytes
    texts.add("now", text("next"), 3 * size)
    assert names(texts) == ["zzzz", "abxy", "next"] and texts.nbytes == 3 * size
    texts.add("now", text("last"), size - 1)
    assert names(texts) == [] and texts.nbytes == 0


def test_what_another_state_read_is_let_go() -> None:
    texts = KeptTexts()
    texts.add("before", text("abcd"), 1 << 20)
    assert texts.find("now", lambda _: 1) == (None, 0) and len(texts) == 0
    texts.add("now", text("abcd"), 1 << 20)
    texts.add("later", text("efgh"), 1 << 20)
    assert names(texts) == ["efgh"]


@pytest.mark.parametrize(
    ("longer", "shorter", "replaced"),
    [
        (text("abcdef"), text("abcd"), True),
        (text("abcd"), text("abcd"), True),
        (text("abcdef", rows=2), text("abcd"), False),  # it has fewer rows, as where only whole chunks are kept
        (text("abXdef"), text("abcd"), False),
        (text("abc"), text("abcd"), False),
        (text("abcdef", draft="one", drafted=5), text("abcd"), True),
        (text("abcdef"), text("abcd", draft="one", drafted=3), False),
        (text("abcdef", draft="one", drafted=5), text("abcd", draft="one", drafted=3), True),
        (text("abcdef", draft="one", drafted=2), text("abcd", draft="one", drafted=3), False),
        (text("abcdef", draft="two", drafted=5), text("abcd", draft="one", drafted=3), False),
    ],
)
def test_a_text_that_goes_on_replaces_the_one_before(longer: KeptText, shorter: KeptText, replaced: bool) -> None:
    texts = KeptTexts()
    texts.add("now", shorter, 1 << 20)
    texts.add("now", longer, 1 << 20)
    assert len(texts) == (1 if replaced else 2) and texts._texts[-1] is longer


@given(lengths=st.lists(st.integers(2, 30), max_size=12), limit=st.integers(0, 20 * ROW_BYTES))
def test_never_more_than_the_limit(lengths: list[int], limit: int) -> None:
    texts, newest = KeptTexts(), []
    for number, length in enumerate(lengths):
        newest.append(text(chr(65 + number) * length))
        texts.add("now", newest[-1], limit)
        assert texts.nbytes <= limit
    expected: list[KeptText] = []
    for each in reversed(newest):  # those of the end, as many as fit
        if sum(other.nbytes for other in (*expected, each)) > limit:
            break
        expected.insert(0, each)
    # One that was too large by itself let all before it go.
    assert list(texts._texts) == expected


def test_clearing_and_copying() -> None:
    texts = KeptTexts()
    assert not texts.clear()
    texts.add("now", text("abcd"), 1 << 20)
    assert len(copy.deepcopy(texts)) == 0 and len(texts) == 1
    assert texts.clear() and not texts.clear()


def test_rows_know_their_size() -> None:
    rows = CacheRows(torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 5, 4))
    assert len(rows) == 5 and rows.nbytes == 2 * 2 * 3 * 5 * 4 * 4
