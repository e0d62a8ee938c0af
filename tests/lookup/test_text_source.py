"""The texts of a request: a batch is each of its sequences alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lookups import even_scores, text_scores

from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, TEXT_FEATURES, TextCandidates, TextHistory, TextScores, TextSource
from ltd.lookup.scores import default_text_scores

TEXT = st.lists(st.integers(0, 2), max_size=30)


def row_of(found: TextCandidates, row: int) -> list[object]:
    """Everything about one sequence."""
    assert found.counts.tolist() == found.counts_list
    parts = found.tokens, found.parents, found.scores, found.chances, found.counts, found.features, found.cells
    return [part[row].tolist() for part in parts]


def alone(text: list[int], scores: TextScores, most: int, history: list[int]) -> list[object]:
    source = TextSource(1, scores, most, TextHistory(history))
    source.extend(0, text)
    return row_of(source.propose(), 0)


@settings(max_examples=60)
@given(
    scores=text_scores(),
    most=st.sampled_from([1, 4, MAX_TEXT]),
    texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4),
    history=TEXT,
    data=st.data(),
)
def test_a_batch_is_each_sequence_alone(
    scores: TextScores, most: int, texts: list[tuple[list[int], list[int]]], history: list[int], data: st.DataObject
) -> None:
    source = TextSource(len(texts), scores, most, TextHistory(history))
    for row, (first, _) in enumerate(texts):
        source.extend(row, first)
    found = source.propose()
    assert found.tokens.shape == found.parents.shape == found.scores.shape == found.cells.shape == (len(texts), most)
    assert found.features.shape == (len(texts), TEXT_FEATURES)
    dtypes = [part.dtype for part in (found.tokens, found.parents, found.scores, found.counts, found.cells)]
    assert dtypes == [torch.int64, torch.int32, torch.float32, torch.int32, torch.int32]
    for row, (first, _) in enumerate(texts):
        assert row_of(found, row) == alone(first, scores, most, history)

    kept = sorted(data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=len(texts))))  # some more than once
    source.keep(kept)
    found = source.propose([texts[row][1] for row in kept])
    assert len(found.tokens) == len(found.counts) == len(found.features) == len(kept)
    for place, row in enumerate(kept):
        first, second = texts[row]
        assert row_of(found, place) == alone(first + second, scores, most, history)


def test_history_is_looked_up_in_but_not_gone_on_with() -> None:
    scores = even_scores(0.9)
    source = TextSource(1, scores, 8, TextHistory([1, 2, 3, 4]))
    assert source.propose().counts_list == [0]
    source.extend(0, [1])
    assert source.propose().tokens[0, :4].tolist() == [2, 3, 4, 0] and source.propose().counts_list == [3]
    source.extend(0, [2, 9])
    assert source.propose().counts_list == [0]
    source.extend(0, [2])
    assert sorted(source.propose().tokens[0, :2].tolist()) == [3, 9]


def test_views_are_overwritten_by_the_next_lookup() -> None:
    source = TextSource(1, even_scores(0.9), 4)
    source.extend(0, [1, 2, 1])
    first = source.propose()
    assert first.tokens[0, 0] == 2
    source.extend(0, [3, 5, 3])
    second = source.propose()
    assert first.tokens[0, 0] == 5 and first.tokens.data_ptr() == second.tokens.data_ptr()


def test_another_device_gets_copies() -> None:
    source = TextSource(2, even_scores(0.9), 4, device=torch.device("meta"))
    found = source.propose([[1, 2, 1], [1, 1]])
    parts = found.tokens, found.parents, found.scores, found.chances, found.counts, found.features, found.cells
    assert {part.device.type for part in parts} == {"meta"} and found.counts_list == [4, 4]


@pytest.mark.parametrize("most", [0, 65, -1])
def test_sizes_out_of_range_are_refused(most: int) -> None:
    with pytest.raises(InputError, match=f"most = {most} text candidates is out of range; it must be 1 … 64"):
        TextSource(1, default_text_scores(), most)


def test_what_is_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="tokens must be"):
        TextSource(1, default_text_scores(), 4, TextHistory([3, -2]))
    source = TextSource(1, default_text_scores(), 4)
    with pytest.raises(InputError, match="tokens must be"):
        source.extend(0, [1, 2**40])
