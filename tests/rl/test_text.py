"""What the text proposes at recorded positions, and the tree of both sources, against plain merging and selecting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_texts import made_proposals, made_text
from made_traces import made_latency

from ltd.errors import InputError
from ltd.lookup import TEXT_FEATURES, TextScores, TextSource
from ltd.lookup.scores import default_text_scores
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.traces import text as texts
from ltd_rl.traces.arrays import NO_RANK
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, split, total
from ltd_rl.traces.replay import gains, replay
from ltd_rl.traces.text import (
    TextProposals,
    candidate_counts,
    follow_text,
    head_columns,
    merged_ranks,
    propose_everywhere,
)

SCORES = TextScores(default_text_scores().chances, np.array([-5, -1], np.float32), np.array([-4, -0.5], np.float32))


@dataclass
class Merged:
    """One position's tree of both sources at one stage, by columns."""

    tokens: list[int]
    parents: list[int]
    scores: list[float]
    columns: list[int]  # of the text's candidates

    def order(self) -> list[int]:
        return sorted(range(len(self.tokens)), key=lambda column: (-self.scores[column], column))

    def path(self, following: list[int]) -> list[int]:
        """The columns along a continuation, as far as they are there."""
        found, node = [], -1
        for token in following:
            children = [c for c in range(len(self.tokens)) if self.parents[c] == node and self.tokens[c] == token]
            if not children:
                break
            node = children[0]
            found.append(node)
        return found


def merge(
    generation: RecordedGeneration, parents: np.ndarray, proposals: TextProposals, position: int, stage: int
) -> Merged:
    """As the operator `merge_text` says."""
    count = candidate_count(generation.width, stage) if stage >= 0 else 0
    head = generation.candidates[position, :count], parents[position, :count], generation.scores[position, :count]
    tokens, above, scores = (part.tolist() for part in head)
    columns: list[int] = []
    for node in range(proposals.counts[position]):
        token, parent = int(proposals.tokens[position, node]), int(proposals.parents[position, node])
        score, column = float(proposals.scores[position, node]), -1 if parent < 0 else columns[parent]
        same = [c for c in range(count) if above[c] == column and tokens[c] == token]
        if same:
            scores[same[0]] = max(scores[same[0]], score)
            columns.append(same[0])
        else:
            columns.append(len(tokens))
            tokens.append(token)
            above.append(column)
            scores.append(score)
    return Merged(tokens, above, scores, columns)


def following(generation: RecordedGeneration, position: int) -> list[int]:
    written: list[int] = generation.tokens[generation.prompt_length + position + 1 :].tolist()
    return written


made = st.tuples(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(1, 20))


@settings(max_examples=120)
@given(made=made, block=st.sampled_from([1, 4, 512]))
def test_ranks_and_gains_are_those_of_the_merged_tree(made: tuple[int, int, int, int, int], block: int) -> None:
    seed, positions, width, depth, most = made
    generation, parents = made_text(seed, positions, width, depth)
    proposals = made_proposals(seed, generation, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK", block)
        ranks, counts = merged_ranks(generation, proposals), candidate_counts(generation, proposals)
    assert ranks.shape == (positions, depth + 2, 16) and ranks.dtype == np.uint16
    assert counts.shape == (positions, depth + 2)
    for stage in range(-1, depth + 1):
        for position in range(positions):
            both = merge(generation, parents, proposals, position, stage)
            order, path = both.order(), both.path(following(generation, position))
            expected = [order.index(column) for column in path]
            assert counts[position, stage] == len(both.tokens)
            assert ranks[position, stage].tolist() == (expected + [NO_RANK] * 16)[:16]
        for size in (0, 1, 2, 3, 5, 9, 40):
            found = gains(generation, stage, size, proposals)
            for position in range(positions):
                both = merge(generation, parents, proposals, position, stage)
                chosen = set(both.order()[:size])
                path = both.path(following(generation, position))
                accepted = next((n for n, column in enumerate(path) if column not in chosen), len(path))
                assert found[position] == min(1 + accepted, positions - position)


@settings(max_examples=60)
@given(made=made)
def test_text_is_merged_with_the_heads_own_candidates(made: tuple[int, int, int, int, int]) -> None:
    seed, positions, width, depth, most = made
    generation, parents = made_text(seed, positions, width, depth)
    proposals, count = made_proposals(seed + 1, generation, most), candidate_count(width, depth)
    found = head_columns(generation, proposals)
    for position in range(positions):
        both = merge(generation, parents, proposals, position, depth)
        expected = [column if column < count else -1 for column in both.columns]
        assert found[position].tolist() == expected + [-1] * (most - len(expected))


def test_made_up_texts_mean_something() -> None:
    merged, appended, deep = 0, 0, 0
    for seed in range(20):
        generation, _ = made_text(seed, 30)
        proposals = made_proposals(seed, generation)
        columns = head_columns(generation, proposals)
        merged += int((columns[proposals.there] > 2).sum())
        appended += int((columns[proposals.there] < 0).sum())
        deep += int((merged_ranks(generation, proposals)[:, -1, 4] < NO_RANK).sum())
    assert min(merged, appended, deep) > 50


@settings(max_examples=40)
@given(made=made)
def test_what_was_right_is_what_was_written(made: tuple[int, int, int, int, int]) -> None:
    seed, positions, width, depth, most = made
    generation, _ = made_text(seed, positions, width, depth)
    proposals = made_proposals(seed, generation, most)
    found = follow_text(generation, proposals)
    for position in range(positions):
        written = following(generation, position)
        for node in range(most):
            path, above = [node], int(proposals.parents[position, node])
            while above >= 0:
                path.insert(0, above)
                above = int(proposals.parents[position, above])
            there = node < proposals.counts[position]
            said = proposals.tokens[position, path].tolist()
            reached = there and said[:-1] == written[: len(said) - 1] and len(written) >= len(said)
            assert found.reached[position, node] == reached
            assert found.right[position, node] == (reached and said == written[: len(said)])
            if there:
                assert found.levels[position, node] == len(path) - 1


@pytest.mark.parametrize("most", [1, 8, 64])
def test_looking_up_everywhere_is_looking_up_at_each_position(most: int) -> None:
    generation, _ = made_text(3, 60)
    found = propose_everywhere(generation, SCORES, most)
    assert found.most == most and found.counts.max() == (most if most < 64 else found.counts.max()) > 0
    for position in range(generation.positions):
        source = TextSource(1, SCORES, most)
        source.extend(0, generation.tokens[: generation.prompt_length + position + 1].tolist())
        seen, count = source.propose(), int(found.counts[position])
        assert seen.counts_list == [count]
        for name in ("tokens", "parents", "scores", "chances", "cells"):
            mine, whole = getattr(found, name)[position], getattr(seen, name)[0].numpy()
            np.testing.assert_array_equal(mine[:count], whole[:count], err_msg=name)
            assert len(set(mine[count:].tolist())) <= 1
        np.testing.assert_array_equal(found.features[position], seen.features[0].numpy())
    assert np.isneginf(found.scores[~found.there]).all()
    with pytest.raises(InputError, match="most"):
        propose_everywhere(generation, SCORES, 65)


# --- tables ---

LADDER = (0, 1, 3, 8)


def made_tables(seed: int, counts: list[int], most: int = 12) -> tuple[list[RecordedGeneration], Outcomes]:
    generations = [made_text(seed + number, count)[0] for number, count in enumerate(counts)]
    return generations, outcomes_of(generations, made_latency(), LADDER, text=SCORES, most=most)


def test_tables_are_those_of_every_decision() -> None:
    generations, outcomes = made_tables(5, [25, 14])
    latency, row = made_latency(), 0
    assert outcomes.gains.shape == outcomes.seconds.shape == (39, 4, 4)
    assert (outcomes.depth, outcomes.least_depth, outcomes.max_text) == (2, NOT_ASKED, 12)
    assert outcomes.text.shape == (39, TEXT_FEATURES) and outcomes.text_scores is SCORES
    for generation in generations:
        proposals = propose_everywhere(generation, SCORES, 12)
        counts = candidate_counts(generation, proposals)
        np.testing.assert_array_equal(outcomes.text[row : row + generation.positions], proposals.features)
        for stage in range(-1, 3):
            for step, size in enumerate(LADDER):
                gained = gains(generation, stage, size, proposals)
                np.testing.assert_array_equal(outcomes.gains[row : row + len(gained), stage, step], gained)
                for position, gain in enumerate(gained.tolist()):
                    length, verified = generation.prompt_length + position, min(size, counts[position, stage])
                    trees = [latency.verify(count, length) + latency.other(count, length) for count in (verified, 0)]
                    seconds = latency.plain(length) + trees[0] - trees[1]
                    if stage >= 0:
                        seconds = latency.cycle(stage, verified, length, gain)
                    expected = float(seconds + latency.lookup(length))
                    assert outcomes.seconds[row + position, stage, step] == pytest.approx(expected, rel=1e-6)
        row += generation.positions
    assert (outcomes.gains[:, NOT_ASKED, 1:] > 1).any() and (outcomes.gains[:, NOT_ASKED, 0] == 1).all()


def test_without_text_the_last_stage_is_a_plain_cycle() -> None:
    generations, _ = made_tables(5, [25, 14])
    outcomes = outcomes_of(generations, made_latency(), LADDER)
    assert (outcomes.gains[:, NOT_ASKED] == 1).all()
    assert (outcomes.seconds[:, NOT_ASKED] == outcomes.plain_seconds[:, None]).all()
    assert (outcomes.least_depth, outcomes.max_text, outcomes.text.shape) == (0, 0, (39, 0))


def test_a_looked_up_cycle_without_candidates_is_plain_but_for_the_looking_up() -> None:
    _, outcomes = made_tables(5, [25, 14])
    lookup = made_latency().lookup(outcomes.lengths)
    np.testing.assert_allclose(outcomes.seconds[:, NOT_ASKED, 0], outcomes.plain_seconds + lookup, rtol=1e-6)


def test_a_shallower_table_is_a_part_of_the_deeper() -> None:
    generations, outcomes = made_tables(8, [30])
    shallow = outcomes_of(generations, made_latency(), LADDER, depth=1, text=SCORES, most=12)
    np.testing.assert_array_equal(shallow.gains, outcomes.gains[:, [0, 1, -1]])
    np.testing.assert_array_equal(shallow.seconds, outcomes.seconds[:, [0, 1, -1]])


def test_a_part_keeps_the_text() -> None:
    generations, outcomes = made_tables(2, [4, 6, 3])
    part = split(outcomes, [0, 2])
    expected = outcomes_of([generations[0], generations[2]], made_latency(), LADDER, text=SCORES, most=12)
    for name in ("gains", "seconds", "text", "max_text"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name), err_msg=name)
    assert part.text_scores is SCORES


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 15), min_size=1, max_size=3))
def test_totals_are_those_of_replays(seed: int, counts: list[int]) -> None:
    """Cycle by cycle, and what is not read yet is counted token by token."""
    generations, outcomes = made_tables(seed, counts)
    latency, generator = made_latency(), np.random.default_rng(seed)
    depths = generator.integers(-1, outcomes.depth + 1, outcomes.positions)
    steps = generator.integers(0, len(LADDER), outcomes.positions)
    found = total(outcomes, depths, steps)
    tokens, seconds, cycles = 0, 0.0, 0
    for number, generation in enumerate(generations):
        rows = slice(outcomes.starts[number], outcomes.starts[number + 1])
        proposals = propose_everywhere(generation, SCORES, 12)
        done = replay(generation, (depths[rows], np.array(LADDER)[steps[rows]]), text=proposals)
        np.testing.assert_array_equal(done.depths, depths[rows][done.positions])
        tokens, cycles, unread, waiting = tokens + int(done.gains.sum()), cycles + len(done.gains), 1, 0.0
        for position, depth, size, gain in zip(done.positions, done.depths, done.sizes, done.gains, strict=True):
            length = generation.prompt_length + position
            seconds += float(latency.lookup(length))
            if depth == NOT_ASKED:
                trees = [latency.verify(count, length) + latency.other(count, length) for count in (size, 0)]
                seconds += float(latency.plain(length) + trees[0] - trees[1])
                waiting += float(latency.begin(unread + gain, length) - latency.begin(unread, length))
                unread += int(gain)
            else:
                seconds += float(latency.cycle(depth, size, length, gain)) + waiting
                unread, waiting = int(gain), 0.0
    assert (found.tokens, found.cycles) == (tokens, cycles) == (sum(counts), cycles)
    assert found.seconds == pytest.approx(seconds, rel=1e-5)


def test_the_ladder_must_have_a_plain_cycle() -> None:
    generation, _ = made_text(1, 5)
    with pytest.raises(InputError, match="must begin with 0"):
        outcomes_of([generation], made_latency(), (1, 2), text=SCORES)
    with pytest.raises(InputError, match="most"):
        outcomes_of([generation], made_latency(), (0, 2), text=SCORES, most=65)
