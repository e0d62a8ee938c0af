"""The index of one text against a plain reference that tries every position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_reference import ListIndex
from made_lookups import even_scores, text_scores

from ltd._C import HistoryIndex, TextIndex, count_sources
from ltd.errors import InputError
from ltd.lookup import MAX_TEXT, TEXT_FEATURES, TextScores

ROWS = {"tokens": torch.int64, "parents": torch.int32, "scores": torch.float32, "chances": torch.float32}
ROWS |= {"features": torch.float32, "cells": torch.int32, "count": torch.int32}
BEYOND = 4  # columns before and behind those that are written


def new_index(scores: TextScores, most: int = MAX_TEXT, history: HistoryIndex | None = None) -> TextIndex:
    parts = scores.chances.ravel(), scores.head_scores, scores.head_log_chances
    return TextIndex(*(part.tolist() for part in parts), most, history)


@dataclass
class Proposed:
    """What an index wrote, as lists of the candidates."""

    tokens: list[int]
    parents: list[int]
    scores: list[float]
    chances: list[float]
    features: list[float]
    cells: list[int]

    @classmethod
    def by(cls, index: TextIndex, most: int = MAX_TEXT) -> Proposed:
        def rubbish(columns: int, dtype: torch.dtype) -> torch.Tensor:
            """With room before and behind it."""
            return torch.full((columns + 2 * BEYOND,), 99, dtype=dtype)

        sizes = {name: TEXT_FEATURES if name == "features" else 1 if name == "count" else most for name in ROWS}
        roomy = {name: rubbish(size, ROWS[name]) for name, size in sizes.items()}
        rows = {name: whole[BEYOND:-BEYOND] for name, whole in roomy.items()}
        index.write_to(**rows)
        count = index.propose()
        assert rows["count"].tolist() == [count]
        for whole in roomy.values():
            assert [*whole[:BEYOND], *whole[-BEYOND:]] == [99] * 2 * BEYOND
        fillings = {"tokens": 0, "parents": -1, "scores": -math.inf, "chances": 0, "cells": -1}
        for name, filling in fillings.items():
            assert rows[name][count:].tolist() == [filling] * (most - count)
        found = {name: rows[name][:count].tolist() for name in fillings}
        return cls(**found, features=rows["features"].tolist())

    @property
    def depths(self) -> list[int]:
        """Tokens from the root to every candidate, itself included."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths


def proposed_for(text: list[int], scores: TextScores, most: int = MAX_TEXT) -> Proposed:
    index = new_index(scores, most)
    index.extend(text)
    return Proposed.by(index, most)


def check(index: TextIndex, reference: ListIndex) -> None:
    found, nodes = Proposed.by(index, reference.most), reference.nodes()
    assert found.tokens == [node.token for node in nodes]
    assert found.parents == [node.parent for node in nodes]
    assert found.cells == [node.cell for node in nodes]
    assert found.scores == pytest.approx([reference.score(node.log_chance) for node in nodes], rel=1e-6, abs=1e-6)
    assert found.chances == pytest.approx([math.exp(node.log_chance) for node in nodes], rel=1e-6)
    assert found.features == pytest.approx(reference.features(nodes), rel=1e-6, abs=1e-6)
    assert found.features[-1] == reference.rate


# --- against the reference ---


@settings(max_examples=400)
@given(
    scores=text_scores(),
    most=st.sampled_from([1, 2, 3, 5, 8, 20, MAX_TEXT]),
    parts=st.integers(1, 4).flatmap(
        lambda largest: st.lists(st.lists(st.integers(-1 if largest > 2 else 0, largest), max_size=25), max_size=4)
    ),
)
def test_small_alphabets(scores: TextScores, most: int, parts: list[list[int]]) -> None:
    index, reference = new_index(scores, most), ListIndex(scores, most)
    check(index, reference)
    for part in parts:
        index.extend(part)
        reference.extend(part)
        check(index, reference)
    assert index.size == sum(map(len, parts))


@settings(max_examples=40)
@given(
    scores=text_scores(),
    letters=st.integers(1, 6),
    period=st.integers(1, 40),
    noise=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_more_places_than_are_looked_at(scores: TextScores, letters: int, period: int, noise: float, seed: int) -> None:
    """Long texts that repeat themselves more or less."""
    random = np.random.default_rng(seed)
    text = np.resize(random.integers(0, letters, period), 260)
    exchanged = random.random(260) < noise
    text[exchanged] = random.integers(0, letters, exchanged.sum())
    index, reference = new_index(scores), ListIndex(scores, MAX_TEXT)
    for part in np.split(text, [150, 200, 201, 202]):
        index.extend(part.tolist())
        reference.extend(part.tolist())
        check(index, reference)


@settings(max_examples=100)
@given(scores=text_scores(), text=st.lists(st.integers(0, 2), max_size=60), cut=st.integers(0, 60))
def test_the_parts_in_which_a_text_comes_make_no_difference(scores: TextScores, text: list[int], cut: int) -> None:
    whole, parts = new_index(scores), new_index(scores)
    whole.extend(text)
    parts.extend(text[:cut])
    Proposed.by(parts)  # nor does asking
    parts.extend(text[cut:])
    assert Proposed.by(whole) == Proposed.by(parts)


@settings(max_examples=200)
@given(scores=text_scores(), text=st.lists(st.integers(0, 2), max_size=60))
def test_candidates_are_a_tree_in_descending_order(scores: TextScores, text: list[int]) -> None:
    found = proposed_for(text, scores)
    assert found.scores == sorted(found.scores, reverse=True)
    assert all(parent < place for place, parent in enumerate(found.parents))
    assert all(depth <= 16 for depth in found.depths)
    children = list(zip(found.parents, found.tokens, strict=True))
    assert len(set(children)) == len(children)


# --- by hand ---


@pytest.mark.parametrize("text", [[], [5], [5, 6], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_without_a_place_there_is_no_candidate(text: list[int]) -> None:
    found = proposed_for(text, even_scores(0.9))
    assert found.tokens == []
    assert found.features == pytest.approx([-5.0] * 8 + [math.exp(-20)] * 8 + [0.0] * 7 + [0.5], abs=1e-12)


def test_a_repetition_goes_on_beyond_the_end() -> None:
    found = proposed_for([1, 2, 3, 1, 2, 3, 1], even_scores(0.9))
    assert found.tokens == [2, 3, 1] * 5 + [2]
    assert found.parents == list(range(-1, 15))
    # The place that matches 4 is alone, and three hits have raised the rate from 1/2 to just below 2/3.
    assert found.cells == [(min(16, 4 + depth) - 1) * 18 + 1 for depth in range(16)]
    assert found.scores == pytest.approx([math.log(0.9) * depth for depth in range(1, 17)])


def test_all_the_same_token() -> None:
    found = proposed_for([7] * 100, even_scores(0.999))
    assert found.tokens == [7] * 16 and found.parents == list(range(-1, 15))
    assert found.cells == [15 * 18 + 1 * 3 + 2] * 16
    assert found.features[20:23] == [1.0, 1.0, 0.5]


def test_as_many_candidates_as_there_can_be() -> None:
    """Every token between two zeros another one: 32 places, each with a text of its own behind it."""
    text = [token for place in range(1, 80) for token in (0, *(1000 * place + step for step in range(20)))] + [0]
    found = proposed_for(text, even_scores(0.999))
    assert len(found.tokens) == MAX_TEXT and len(set(found.tokens)) == MAX_TEXT
    assert found.tokens[0] == 79_000 and max(found.tokens) == 79_001
    assert [token for token in found.tokens if token % 1000 == 0] == [1000 * place for place in range(79, 47, -1)]
    assert [token for token in found.tokens if token % 1000 == 1] == [1000 * place + 1 for place in range(79, 47, -1)]


def test_evidence_of_every_kind() -> None:
    def first_cells(text: list[int]) -> dict[int, tuple[int, int]]:
        """Match and agreement of the root's children by token."""
        found = proposed_for(text, even_scores(0.5))
        return {
            token: (cell // 18 + 1, cell % 18 // 3)
            for token, parent, cell in zip(found.tokens, found.parents, found.cells, strict=True)
            if parent < 0
        }

    assert first_cells([1, 2, 8, 1, 2]) == {8: (2, 0)}
    assert first_cells([1, 2, 8, 1, 2, 8, 9, 1, 2]) == {8: (2, 1)}
    assert first_cells([1, 2, 8, 3, 1, 2, 9, 4, 1, 2]) == {9: (2, 2), 8: (2, 4)}
    assert first_cells([1, 2, 8, 9, 1, 2, 9, 1, 2]) == {9: (3, 0), 8: (2, 5)}
    assert first_cells([1, 2, 8, 0, 1, 2, 8, 0, 1, 2, 9, 0, 3, 2, 7, 1, 2]) == {9: (2, 2), 8: (2, 3), 7: (1, 5)}


def test_the_rate_is_of_the_best_place() -> None:
    index = new_index(even_scores(0.5))
    rate = 0.5
    for token, hit in ((1, None), (2, None), (1, None), (2, 1), (1, 1), (5, 0), (5, None), (5, 1)):
        index.extend([token])
        rate += 0 if hit is None else (hit - rate) / 8
        assert Proposed.by(index).features[-1] == rate


def test_what_is_less_likely_than_one_percent_is_left_out() -> None:
    assert len(proposed_for([1] * 50, even_scores(0.1)).tokens) == 2  # 0.1 is a bit above in float32
    assert len(proposed_for([1] * 50, even_scores(0.0999)).tokens) == 1
    assert proposed_for([1] * 50, even_scores(0.009)).tokens == []


# --- separators ---


def test_a_separator_matches_nothing_and_is_never_proposed() -> None:
    found = proposed_for([1, 2, 3, -1, 1, 2], even_scores(0.9))
    assert found.tokens == [3]
    assert proposed_for([1, 2, -1, 1, 2], even_scores(0.9)).tokens == []
    assert proposed_for([1, 2, 3, -1, 1, 2, 3, -1], even_scores(0.9)).tokens == []
    # Matches do not reach across it, nor do repetitions.
    assert proposed_for([9, -1, 2, 3, 9, -1, 2], even_scores(0.9)).tokens == [3, 9]
    assert proposed_for([9, -1, 2, 3, 9, -1, 2], even_scores(0.9)).cells[0] // 18 == 0


# --- linear in the text ---

TEXTS = {
    "the same token": lambda n: np.zeros(n, np.int64),
    "two tokens at random": lambda n: np.random.default_rng(0).integers(0, 2, n),
    "nothing twice": np.arange,
    "many tokens at random": lambda n: np.random.default_rng(0).integers(0, 5000, n),
    "a period": lambda n: np.resize(np.random.default_rng(0).integers(0, 50, 300), n),
    "zeros between others": lambda n: np.where(np.arange(n) % 2, np.arange(n), 0),
}
STEPS_PER_TOKEN, STEPS_PER_QUESTION = 500, 20_000
BYTES_PER_TOKEN = 80  # 3 chains, their tables at most a quarter full, all arrays grown by doubling


@pytest.mark.parametrize("kind", TEXTS)
def test_steps_and_memory_are_linear(kind: str) -> None:
    index = new_index(even_scores(0.999))
    empty, steps = index.memory, 0
    for part in np.split(TEXTS[kind](100_000), 100):
        before = index.steps
        index.extend(part.tolist())
        steps += index.steps - before
        assert steps <= STEPS_PER_TOKEN * index.size
        assert index.memory <= empty + BYTES_PER_TOKEN * index.size
        before = index.steps
        Proposed.by(index)
        assert index.steps - before <= STEPS_PER_QUESTION


# --- what is refused ---


@pytest.mark.parametrize("token", [-2, -(2**31), 2**31, 2**62])
def test_what_is_no_token_is_refused_and_nothing_appended(token: int) -> None:
    index = new_index(even_scores(0.9))
    index.extend([1, 2, 3, 1])
    with pytest.raises(InputError, match=f"tokens must be -1 to 2147483647, but is {token}"):
        index.extend([2, token])
    assert index.size == 4 and Proposed.by(index).tokens[:2] == [2, 3]
    index.extend([2**31 - 1])
    assert index.size == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chances": [0.5] * 287}, "chances must be 288 numbers"),
        ({"chances": [0.5] * 287 + [0.0]}, "chances must be 288 numbers above 0"),
        ({"chances": [0.5] * 287 + [1.5]}, "chances must be 288 numbers above 0 and up to 1"),
        ({"chances": [0.5] * 287 + [math.nan]}, "chances must be"),
        ({"head_scores": [-1.0]}, "as many of both, but are 1 and 0"),
        ({"head_scores": [0.0, -1.0], "head_log_chances": [-1.0, 0.0]}, "must ascend"),
        ({"head_scores": [-1.0, 0.0], "head_log_chances": [0.0, 0.0]}, "must ascend"),
        ({"head_scores": [-1.0, math.nan], "head_log_chances": [-1.0, 0.0]}, "must ascend"),
        ({"most": 0}, "most must be 1 to 64, but is 0"),
        ({"most": 65}, "most must be 1 to 64, but is 65"),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"chances": [0.5] * 288, "head_scores": [], "head_log_chances": [], "most": 8}
    TextIndex(**arguments)
    with pytest.raises(InputError, match=message):
        TextIndex(**{**arguments, **changes})


@pytest.mark.parametrize("name", ROWS)
def test_bad_tensors_are_refused(name: str) -> None:
    index = new_index(even_scores(0.9), 30)
    sizes = dict.fromkeys(ROWS, 30) | {"features": TEXT_FEATURES, "count": 1}
    size, dtype = sizes[name], ROWS[name]
    rows = {other: torch.zeros(sizes[other], dtype=dtype) for other, dtype in ROWS.items()}
    bad = [
        (None, f"{name} must be a tensor"),
        (torch.zeros(size, dtype=torch.float64), f"{name} must be of type"),
        (torch.zeros(size + 1, dtype=dtype), f"{name} must have size {size} in dimension 0"),
        (torch.zeros(1, size, dtype=dtype), f"{name} must have 1 dimensions"),
        (torch.zeros(size, dtype=dtype, device="meta"), f"{name} must be on the CPU"),
    ]
    if size > 1:
        bad += [
            (torch.zeros(2 * size, dtype=dtype)[::2], f"{name} must be contiguous"),
            (torch.zeros(1, dtype=dtype).expand(size), f"{name} is written: each of its elements"),
        ]
    for tensor, message in bad:
        with pytest.raises(InputError, match=message):
            index.write_to(**{**rows, name: tensor})
    with pytest.raises(InputError, match="there is no row to write to; call write_to before propose"):
        index.propose()


# --- a history ---


@settings(max_examples=200)
@given(
    scores=text_scores(),
    history=st.lists(st.integers(-1, 3), max_size=60),
    parts=st.lists(st.lists(st.integers(-1, 3), max_size=25), max_size=4),
)
def test_a_history_is_the_beginning_of_every_text(
    scores: TextScores, history: list[int], parts: list[list[int]]
) -> None:
    """Two texts behind one of them are each what a text with all its tokens is, and leave it as it was."""
    shared = HistoryIndex(history)
    for _ in range(2):
        index, reference = new_index(scores, history=shared), ListIndex(scores, MAX_TEXT)
        reference.extend([*history, -1])
        check(index, reference)
        for part in parts:
            index.extend(part)
            reference.extend(part)
            check(index, reference)
        assert index.size == len(history) + 1 + sum(map(len, parts))


def test_a_history_costs_a_text_nothing() -> None:
    index = new_index(even_scores(0.9), history=HistoryIndex(range(100_000)))
    assert index.size == 100_001 and index.steps == 0 and index.memory == 0


@pytest.mark.parametrize("token", [-2, 2**31])
def test_a_history_of_what_is_no_token_is_refused(token: int) -> None:
    with pytest.raises(InputError, match=f"text_index: tokens must be -1 to 2147483647, but is {token}"):
        HistoryIndex([1, token])


# --- whose candidates were accepted ---


def test_sources_are_counted_along_the_paths() -> None:
    sources = torch.tensor([[1, 2, 3, 0], [2, 2, 1, 0]], dtype=torch.int8)
    candidates = torch.tensor([[-1, 2, 0, 1, 9], [-1, 0, 1, 2, 9]], dtype=torch.int32)
    path = torch.tensor([[0, 1, 3, 2], [0, 1, 2, 9]], dtype=torch.int32)
    assert count_sources(sources, candidates, path, [3, 2]) == [1, 3, 1]
    assert count_sources(sources, candidates, path, [1, 0]) == [0, 0, 1]
    fillers = torch.zeros_like(sources)
    assert count_sources(fillers, candidates, path, [3, 2]) == [0, 0, 0]
    for kept, message in (([4, 0], "kept must be 0 to 3, but is 4"), ([0, 3], "path must be 0 to 4, but is 9")):
        with pytest.raises(InputError, match=f"count_sources: {message}"):
            count_sources(sources, candidates, path, kept)
    with pytest.raises(InputError, match="sources must have size 1 in dimension 0"):
        count_sources(sources, candidates, path, [1])
    with pytest.raises(InputError, match="path must be of type"):
        count_sources(sources, candidates, path.long(), [1, 1])
