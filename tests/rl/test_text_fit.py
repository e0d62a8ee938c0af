"""The fit of the text's scores, against counting one by one and where the chances are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_texts import made_text
from made_traces import made_generations

from ltd.errors import InputError
from ltd.lookup import TextScores, TextSource
from ltd.lookup.scores import AGREEMENTS, LEAST_CHANCE, MATCHES, MOST_CHANCE, RATES, default_text_scores
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.text_fit import BIN, FEWEST, fit_text_scores, head_knots, seen_chances, smoothed

KINDS = MATCHES * AGREEMENTS * RATES


def repeated(generation: RecordedGeneration, period: int) -> RecordedGeneration:
    """With a text that says the same again and again."""
    count = len(generation.tokens)
    return replace(generation, tokens=np.resize(generation.tokens[:period], count).astype(np.int32))


def counted_by_hand(generations: list[RecordedGeneration], scores: TextScores, most: int) -> tuple[np.ndarray, ...]:
    """Tokens whose parents were right, and those that were right themselves, by evidence."""
    counts, hits = np.zeros(KINDS, dtype=int), np.zeros(KINDS, dtype=int)
    for generation in generations:
        text = generation.tokens.tolist()
        for place in range(generation.prompt_length, len(text) - 1):
            source = TextSource(1, scores, most)
            source.extend(0, text[: place + 1])
            seen = source.propose()
            levels: list[int] = []  # of the right ones; -1 for others
            for node in range(seen.counts_list[0]):
                parent = int(seen.parents[0, node])
                above = 0 if parent < 0 else levels[parent]
                after = place + 1 + above
                levels.append(-1)
                if above < 0 or after >= len(text):
                    continue
                counts[seen.cells[0, node]] += 1
                if text[after] == seen.tokens[0, node]:
                    hits[seen.cells[0, node]] += 1
                    levels[node] = above + 1
    return hits, counts


def test_chances_are_what_is_counted() -> None:
    generations = [made_text(1, 40)[0], repeated(made_text(2, 50)[0], 7), made_text(3, 1)[0]]
    hits, counts = counted_by_hand(generations, default_text_scores(), 16)
    assert counts.sum() - hits.sum() > 50 < hits.sum()
    found = seen_chances(generations, default_text_scores(), 16)
    np.testing.assert_array_equal(found, smoothed(hits, counts))


def test_few_of_a_kind_are_taken_as_those_of_their_length() -> None:
    counts, hits = np.zeros((2, MATCHES, AGREEMENTS, RATES), dtype=np.int64)
    counts[3, 0, 0], hits[3, 0, 0] = 10_000_000, 9_999_999
    counts[3, 1, 2], hits[3, 1, 2] = 2, 1
    counts[5, 0, 1], hits[5, 0, 1] = 8, 2
    found = smoothed(hits.ravel(), counts.ravel())
    overall = hits.sum() / counts.sum()
    fourth, sixth = (10_000_000 + 8 * overall) / (10_000_002 + 8), (2 + 8 * overall) / (8 + 8)
    assert found.dtype == np.float32 and found.shape == (MATCHES, AGREEMENTS, RATES)
    assert found[3, 0, 0] == MOST_CHANCE
    assert found[3, 1, 2] == pytest.approx((1 + 8 * fourth) / (2 + 8), rel=1e-6)
    assert found[5, 0, 1] == pytest.approx((2 + 8 * sixth) / (8 + 8), rel=1e-6)
    assert found[5, 3, 0] == pytest.approx(sixth, rel=1e-6)
    assert found[9, 0, 0] == pytest.approx(min(overall, MOST_CHANCE), rel=1e-6)
    never = smoothed(np.zeros(KINDS, dtype=np.int64), np.full(KINDS, 10**6))
    assert (never == LEAST_CHANCE).all()


def test_the_fit_looks_twice() -> None:
    generations = [made_text(seed, 60)[0] for seed in range(4)] + [repeated(made_text(9, 60)[0], 9)]
    scores = fit_text_scores(generations, 8)
    knots = head_knots(generations)
    first = TextScores(seen_chances(generations, TextScores(default_text_scores().chances, *knots), 8), *knots)
    np.testing.assert_array_equal(scores.chances, seen_chances(generations, first, 8))
    np.testing.assert_array_equal(scores.head_scores, knots[0])
    np.testing.assert_array_equal(scores.head_log_chances, knots[1])
    # What repeats itself goes on for sure; other texts of five words do not.
    assert scores.chances[15].max() > 0.95 and scores.chances[0].min() < 0.35


def test_a_text_without_repetitions_teaches_nothing() -> None:
    generation, _ = made_text(4, 12)
    strange = replace(generation, tokens=np.arange(len(generation.tokens), dtype=np.int32))
    np.testing.assert_array_equal(fit_text_scores([strange], 8).chances, default_text_scores().chances)
    np.testing.assert_array_equal(fit_text_scores([], 8).chances, default_text_scores().chances)
    with pytest.raises(InputError, match="most"):
        fit_text_scores([generation], 0)


def test_knots_are_what_is_counted_in_bins_of_scores() -> None:
    generations = made_generations(3, [150, 120, 0])
    scores, log_chances = head_knots(generations)
    assert scores.dtype == log_chances.dtype == np.float32
    assert len(scores) > 8 and (np.diff(scores) > 0).all() and (np.diff(log_chances) > 0).all()
    seen = np.concatenate([generation.scores.ravel() for generation in generations])
    right = np.concatenate(
        [g.scores[row, column] for g in generations for row, path in enumerate(g.path) for column in [path[path >= 0]]]
    )
    lows = [-BIN * (number + 1) for number in range(48)]
    table = [
        (low + BIN / 2, *(int(((low < values) & (values <= low + BIN)).sum()) for values in (seen, right)))
        for low in lows
    ]
    kept = {middle: (count, hit) for middle, count, hit in table if count >= FEWEST}
    assert set(scores.tolist()) <= set(kept)
    # Pooling keeps the sums, and every knot is within the chances of the bins.
    chances = np.exp(log_chances.astype(float))
    assert chances.max() <= max(hit / count for count, hit in kept.values()) + 1e-6
    total = sum(kept[score][0] * chance for score, chance in zip(scores.tolist(), chances.tolist(), strict=True))
    assert total == pytest.approx(sum(hit for _, hit in kept.values()), rel=0.02)


def test_too_little_gives_no_knots() -> None:
    assert [len(part) for part in head_knots(made_generations(3, [1]))] == [0, 0]
