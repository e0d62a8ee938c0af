"""The controller over both sources: it sees the merged tree, decides live as on traces, and wins by the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lookups import even_scores
from made_texts import made_copies, made_proposals, made_text
from made_traces import made_generations, made_latency
from recordings import Recorded

from ltd.decoding.speculation import Speculation
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.errors import InputError
from ltd.evaluation.methods import TreeMethod
from ltd.latency.cycle_costs import TYPICAL_GAIN
from ltd.policies.controller import ExpectedGain
from ltd.policies.controller_file import load_controller, save_controller
from ltd.policies.controller_parts import (
    BINS,
    BOTH,
    FOLLOWS,
    MISSED,
    TextTables,
    bins_of,
    bins_of_chances,
    text_seen,
)
from ltd.tree import NOT_ASKED, DraftTree, candidate_count
from ltd_rl.baselines.controller_fit import (
    believe,
    calibrate_text,
    decide_everywhere,
    fit,
    fit_ahead,
    judge,
)
from ltd_rl.baselines.text_places import placed, places_of, tallies
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.optimum import best_static, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of, plain_total, total
from ltd_rl.traces.replay import Cycles, replay, text_at
from ltd_rl.traces.text import TextProposals, follow_text, parents_at, propose_everywhere
from ltd_rl.traces.text_fit import fit_text_scores

SIZES, MOST = (0, 1, 2, 3, 4, 6, 8, 12), 12
Fitted = tuple[ExpectedGain, list[RecordedGeneration], Outcomes]


def with_text(generations: list[RecordedGeneration], like: Outcomes | None = None) -> Outcomes:
    """Their tables, with scores that fit them, or with those of others."""
    scores = fit_text_scores(generations, MOST) if like is None else like.text_scores
    return outcomes_of(generations, made_latency(), SIZES, text=scores, most=MOST)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    generations = [made_copies(seed, 60) for seed in range(40)]
    outcomes = with_text(generations)
    return fit(generations, outcomes, made_latency())[0], generations, outcomes


def drafted(generation: RecordedGeneration, proposals: TextProposals, position: int, depth: int) -> DraftTree:
    """The tree of a position before anything is merged, as the decoder has it."""
    tree = DraftTree(1, generation.width, generation.depth, 64, torch.device("cpu"), proposals.most)
    length = generation.prompt_length + position
    root = torch.tensor([int(generation.tokens[length])])
    tree.begin(root, torch.tensor([length], dtype=torch.int32), text_at(proposals, position))
    count = candidate_count(generation.width, depth)
    tree.tokens[0, :count] = torch.from_numpy(generation.candidates[position, :count].astype(np.int64))
    tree.scores[0, :count] = torch.from_numpy(generation.scores[position, :count])
    tree.parents[0, :count] = torch.from_numpy(parents_at(generation, position)[:count])
    tree.levels = depth + 1
    return tree


# --- what it sees ---


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), depth=st.integers(-1, 2))
def test_it_sees_the_tree_that_is_merged(seed: int, depth: int) -> None:
    generation, _ = made_text(seed, 6)
    proposals = made_proposals(seed, generation)
    places, generator = placed(generation, proposals), np.random.default_rng(seed)
    tables = TextTables(12, even_scores(0.5), np.sort(generator.random((3, BINS)), axis=1)[:, ::-1], np.zeros((1, 1)))
    for position in range(generation.positions):
        tree, count = drafted(generation, proposals, position, depth), candidate_count(3, depth)
        seen, at_once = text_seen(tree, count, depth), places.seen(depth)
        assert seen.apart.tolist() == at_once.apart[position, None].tolist()
        assert seen.kinds[seen.apart].tolist() == at_once.kinds[position, None][seen.apart].tolist()
        scores, chances = tree.scores[:, :count].numpy().copy(), np.full((1, count), -1.0)
        scores, chances = tables.with_both(scores, chances, seen.columns, seen.scores)
        text_scores, text_chances = tables.beside(seen)
        tree.merge()
        apart = seen.apart[0]
        assert tree.candidates == count + apart.sum()
        expected = tree.scores[0, : tree.candidates].numpy()
        np.testing.assert_array_equal(np.concatenate([scores[0], text_scores[0, apart]]), expected)
        sources = tree.sources[0, :count].numpy()
        np.testing.assert_array_equal(chances[0] >= 0, sources == 3)
        np.testing.assert_array_equal(chances[0][sources == 3], tables.chances[BOTH, bins_of(scores[0])][sources == 3])
        rows = bins_of_chances(seen.chances[0])
        np.testing.assert_array_equal(text_chances[0], np.where(apart, tables.chances[seen.kinds[0], rows], 0.0))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), depth=st.integers(0, 2))
def test_kinds_say_where_a_path_leaves_the_draft(seed: int, depth: int) -> None:
    generation, parents = made_text(seed, 5)
    proposals = made_proposals(seed, generation)
    places = placed(generation, proposals)
    seen = places.seen(depth)
    for position in range(generation.positions):
        count = candidate_count(3, depth)
        own = set(
            zip(parents[position, :count].tolist(), generation.candidates[position, :count].tolist(), strict=True)
        )
        paths: list[list[tuple[int, int]]] = []
        for node in range(proposals.counts[position]):
            parent = int(proposals.parents[position, node])
            above = paths[parent] if parent >= 0 else []
            paths.append([*above, (parent, int(proposals.tokens[position, node]))])
            column, missing = -1, None  # along the path, as far as the draft has it too
            for level, (_, token) in enumerate(paths[-1]):
                if (column, token) not in own:
                    missing = level
                    break
                column = next(
                    c
                    for c in range(count)
                    if parents[position, c] == column and generation.candidates[position, c] == token
                )
            assert (missing is None) != seen.apart[position, node]
            if missing is not None:
                assert seen.kinds[position, node] == (MISSED if missing <= depth else FOLLOWS)


def test_chances_of_the_text_are_frequencies() -> None:
    generations = [made_copies(seed, 40) for seed in range(12)]
    scores = fit_text_scores(generations, MOST)
    places, outcomes = places_of(generations, scores, MOST), outcomes_of(generations, made_latency(), (1,))
    seen: dict[int, list[tuple[int, bool]]] = {MISSED: [], FOLLOWS: [], BOTH: []}
    first = 0
    for generation in generations:
        proposals = propose_everywhere(generation, scores, MOST)
        followed = follow_text(generation, proposals)
        every = [placed(generation, proposals).seen(depth) for depth in range(3, -1, -1)]
        for position in range(generation.positions):
            for node in range(proposals.counts[position]):
                kinds, right = set(), bool(followed.right[position, node])
                for beside in every:
                    column = int(beside.columns[position, node])
                    kinds.add(BOTH if column >= 0 else int(beside.kinds[position, node]))
                    if column >= 0:
                        better = max(generation.scores[position, column], proposals.scores[position, node])
                        higher = int(bins_of(np.array([better]))[0])
                own = int(bins_of_chances(places.chances[first + position, node : node + 1])[0])
                for kind in kinds:
                    seen[kind].append((higher if kind == BOTH else own, right))
        first += generation.positions
    found = tallies(places, outcomes.scores, 3)
    for kind, entries in seen.items():
        assert len(entries) > 30, "the test means nothing"
        assert sorted(found[kind][0].tolist()) == sorted(entry for entry, _ in entries)
        assert sorted(found[kind][1].tolist()) == sorted(entry for entry, right in entries if right)
    chances = calibrate_text(places, outcomes.scores, 3)
    assert chances.shape == (3, BINS) and np.all(np.diff(chances, axis=1) <= 0)


# --- what it decides ---


def brute_worth(controller: ExpectedGain, tree: DraftTree, depth: int) -> np.ndarray:
    """What every size is worth, from the tree that is merged."""
    assert tree.text is not None and controller.text is not None
    count = candidate_count(controller.width, depth)
    levels = [0 if c < 3 else 1 + (c - 3) // 9 for c in range(count)]
    before = tree.scores[0, :count].clone()
    seen = text_seen(tree, count, depth)
    tree.merge()
    scores = tree.scores[0, : tree.candidates].tolist()
    apart = np.flatnonzero(seen.apart[0]).tolist()
    chances = []
    for column in range(tree.candidates):
        if column >= count:
            node = apart[column - count]
            own = seen.chances[0, node : node + 1]
            table = controller.text.chances[seen.kinds[0, node]]
            chances.append(float(own[0] if depth < 0 else table[bins_of_chances(own)[0]]))
        elif tree.sources[0, column] == 3:
            chances.append(controller.text.chances[BOTH, bins_of(tree.scores[0, column : column + 1].numpy())[0]])
        else:
            chances.append(controller.chances[levels[column], bins_of(before[column : column + 1].numpy())[0]])
    order = sorted(range(len(scores)), key=lambda column: (-scores[column], column))
    sums = [0.0, *accumulate(chances[column] for column in order)]
    add, times = controller.trust[:, depth]
    gain = np.clip([add[i] + times[i] * sums[min(size, len(order))] for i, size in enumerate(SIZES)], 1.0, 17.0)
    length = int(tree.lengths[0])
    base = np.interp(length, controller.lengths, controller.costs[depth][0])
    more = [np.interp(length, controller.lengths, controller.text.more[min(size, len(order))]) for size in SIZES]
    return controller.worth(gain, base + np.array(more))


def test_it_counts_the_best_of_both(fitted: Fitted) -> None:
    controller, generations, _ = fitted
    assert controller.text is not None
    chosen = set()
    for generation in generations[:3]:
        proposals = propose_everywhere(generation, controller.text.scores, MOST)
        for position in range(0, generation.positions, 7):
            for depth in range(-1, 4):
                worth, _ = controller._look(drafted(generation, proposals, position, depth), depth)
                tree = drafted(generation, proposals, position, depth)
                np.testing.assert_allclose(worth[0], brute_worth(controller, tree, depth), rtol=1e-9)
                chosen.add(int(worth[0].argmax()))
    assert len(chosen) > 3


def test_its_costs_are_the_tables(fitted: Fitted) -> None:
    controller, generations, outcomes = fitted
    latency, places = made_latency(), places_of(generations, outcomes.text_scores, MOST)
    known = outcomes.lengths <= 256  # beyond what was measured one knot far away is in the costs
    for depth in range(-1, 4):
        seconds = outcomes.seconds[:, depth].astype(np.float64)
        typical = outcomes.lengths[:, None]
        if depth >= 0:  # what a cycle gains is read in it: here it is typically much
            seconds += latency.begin(TYPICAL_GAIN, typical) - latency.begin(outcomes.gains[:, depth], typical)
        else:
            seconds += latency.begin(1 + TYPICAL_GAIN, typical) - latency.begin(1, typical)
        found = controller.cost(outcomes.lengths, depth, places.seen(depth))
        np.testing.assert_allclose(found[known], seconds[known], rtol=1e-5)
    assert known.any()


def test_the_text_wins_on_answers_it_has_not_seen(fitted: Fitted) -> None:
    controller, generations, outcomes = fitted
    others = [made_copies(seed, 60) for seed in range(500, 520)]
    unseen = with_text(others, outcomes)
    found = total(unseen, *decide_everywhere(controller, unseen, others)).throughput
    assert best_static(unseen)[2].throughput < found < optimum(unseen).total.throughput
    head, _ = fit(generations, outcomes_of(generations, made_latency(), SIZES[1:]), made_latency())
    alone = outcomes_of(others, made_latency(), SIZES[1:])
    assert total(alone, *decide_everywhere(head, alone)).throughput < found


def torn(controller: ExpectedGain, generations: list[RecordedGeneration], outcomes: Outcomes) -> ExpectedGain:
    """The same, but at half of all positions it goes on at every depth."""
    assert controller.text is not None
    beliefs, ahead = (
        believe(controller, outcomes, places_of(generations, controller.text.scores, MOST)),
        controller.ahead,
    )
    for depth in range(-1, controller.max_depth):
        worth, seen = judge(controller, beliefs, depth)
        ahead = ahead.copy()
        ahead[depth, 0] += np.median(worth.max(axis=1) - controller.going_on(seen, depth))
    return replace(controller, ahead=ahead, drafts=True)


def assert_same(one: Cycles, other: Cycles) -> None:
    for name in ("positions", "depths", "sizes", "gains"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("rate", [None, 150.0, 400.0])
def test_live_it_decides_as_at_all_positions_at_once(fitted: Fitted, rate: float | None) -> None:
    controller, generations, outcomes = fitted
    assert controller.text is not None
    beliefs = believe(controller, outcomes, places_of(generations, controller.text.scores, MOST))
    controller = fit_ahead(replace(controller, rate=rate), beliefs, outcomes)
    depths, steps = decide_everywhere(controller, outcomes, generations)
    assert {NOT_ASKED, 0} < set(depths.tolist()) and len(set(steps.tolist())) > 3
    sizes = np.array(SIZES)[steps]
    for number, generation in enumerate(generations[:12]):
        block = slice(outcomes.starts[number], outcomes.starts[number + 1])
        proposals = propose_everywhere(generation, controller.text.scores, MOST)
        live = replay(generation, controller, text=proposals)
        assert_same(live, replay(generation, (depths[block], sizes[block]), text=proposals))


def test_without_a_draft_it_is_refused(fitted: Fitted) -> None:
    """Its tables are of the text beside a head; the text alone would be judged by them without a word."""
    with pytest.raises(InputError, match=r"^the policy controller, .* decides about a draft, and there is none"):
        Speculation(None, replace(fitted[0], drafts=True))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_in_the_decoder_it_decides_as_in_replays(recorded: Callable[[str], Recorded], family: str) -> None:
    run = recorded(family)
    generations = run.traces.generations
    scores, latency = fit_text_scores(generations, MOST), made_latency(width=DEFAULT_WIDTH)
    outcomes = outcomes_of(generations, latency, SIZES, text=scores, most=MOST)
    controller, _ = fit(generations, outcomes, latency)
    seen: set[int] = set()
    for rate in (50.0, 400.0):
        rated = torn(replace(controller, rate=rate), generations, outcomes)
        for generation in generations:
            prompt = generation.tokens[: generation.prompt_length].tolist()
            answer = run.decoder.generate(prompt, max_new_tokens=generation.positions + 1, policy=rated)
            assert not isinstance(answer, list)
            assert answer.token_ids == generation.tokens[generation.prompt_length :].tolist()
            proposals = propose_everywhere(generation, scores, MOST)
            cycles, found = replay(generation, rated, text=proposals), answer.statistics
            assert (found.depths, found.sizes) == (cycles.depths.tolist(), cycles.sizes.tolist())
            seen.update(found.depths)
    assert {NOT_ASKED, 0} < seen


def test_a_batch_decides_on_the_mean(fitted: Fitted) -> None:
    controller, generations, _ = fitted
    assert controller.text is not None
    proposals = propose_everywhere(generations[0], controller.text.scores, MOST)
    for depth in (-1, 1):
        rows = [drafted(generations[0], proposals, position, depth) for position in (3, 40)]
        both = DraftTree(2, 3, 3, 64, torch.device("cpu"), MOST)
        texts = [tree.text for tree in rows if tree.text is not None]
        parts = {
            name: torch.cat([getattr(text, name) for text in texts])
            for name in ("tokens", "parents", "scores", "chances", "counts", "features", "cells")
        }
        text = replace(texts[0], **parts, counts_list=parts["counts"].tolist())
        both.begin(torch.cat([tree.roots for tree in rows]), torch.cat([tree.lengths for tree in rows]), text)
        both.levels = depth + 1
        for name in ("tokens", "parents", "scores"):
            getattr(both, name)[:] = torch.cat([getattr(tree, name) for tree in rows])
        worth = np.mean([brute_worth(controller, tree, depth) for tree in rows], axis=0)
        assert controller.choose_size(both, depth) == SIZES[int(worth.argmax())]


def test_where_nothing_pays_it_decodes_plainly() -> None:
    generations = [made_copies(seed, 30) for seed in range(2)]
    latency = made_latency(verify_slope=1000.0)
    outcomes = outcomes_of(generations, latency, SIZES, text=fit_text_scores(generations, MOST), most=MOST)
    controller, found = fit(generations, outcomes, latency)
    assert not controller.speculate(torch.tensor([5]))
    assert found == plain_total(outcomes)


def test_what_it_cannot_decide_on_is_refused(fitted: Fitted) -> None:
    controller, generations, outcomes = fitted
    with pytest.raises(InputError, match="needs the generations"):
        decide_everywhere(controller, outcomes, generations[1:])
    with pytest.raises(InputError, match="give such proposals"):
        replay(generations[0], controller)


# --- files ---


def test_a_file_keeps_the_text(fitted: Fitted, tmp_path: Path) -> None:
    controller, generations, outcomes = fitted
    file = tmp_path / "controller.json"
    save_controller(controller, file)
    again = load_controller(file)
    for one, other in zip(
        decide_everywhere(again, outcomes, generations),
        decide_everywhere(controller, outcomes, generations),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert again.text is not None and (again.max_text, again.sizes) == (MOST, SIZES)
    assert str(TreeMethod.named(f"controller:{file}").policy) == str(controller)
    assert "candidates of the text" in str(again)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 1}, "schema 1 knows no text"),
        ({"text": None}, "schema 2 lacks text"),
        ({"sizes": [0, 1, 2, 3, 4, 8, 6, 12]}, "must ascend within 0"),
        ({"costs": [[[1.0]]]}, "costs must be finite numbers of shape"),
        ({"ahead": [[1.0] * 6]}, "ahead must be finite numbers of shape"),
        ({"text": {"most": 65}}, "must be 1 … 64"),
        ({"text": {"most": 0}}, "cannot be used"),
        ({"text": {"chances": [[0.5]]}}, "text.chances must be 3 rows"),
        ({"text": {"more": [[1.0]]}}, "text.more must be finite numbers of shape"),
        ({"text": {"more": [[1.0], [1.0, 2.0]]}}, "cannot be used"),
        ({"text": {"more": [[-1.0, 0.0, 0.0, 0.0]] * 13}}, "must not be negative"),
        ({"text": {"scores": {}}}, "lacks text.scores.chances"),
        ({"text": {"chance": []}}, "does not know: text.chance$"),
    ],
)
def test_damaged_files_are_refused(fitted: Fitted, tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    file = tmp_path / "controller.json"
    save_controller(fitted[0], file)
    values = json.loads(file.read_text())
    for name, value in change.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=complaint):
        load_controller(file)


def test_a_controller_of_the_draft_alone_is_written_as_before(tmp_path: Path) -> None:
    generations = made_generations(11, [30] * 4)
    controller, _ = fit(generations, outcomes_of(generations, made_latency(), (1, 4)), made_latency())
    save_controller(controller, tmp_path / "controller.json")
    values = json.loads((tmp_path / "controller.json").read_text())
    assert values["schema"] == 1 and "text" not in values
    assert load_controller(tmp_path / "controller.json").max_text == 0
