"""Rules that weigh chances against costs: against loops over single nodes, on scores of all kinds."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_costs import made_costs
from oracle_draft import OracleDraft
from transformers import AutoModelForCausalLM

from ltd.common.assets import shipped_policies
from ltd.common.machine import processor_name, unlikeness
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.methods import Method
from ltd.policies import Budget, CaDDTree, Smart
from ltd.policies.base import beam_width
from ltd.policies.by_name import parse_policy
from ltd.policies.cost_aware import CostAware, check_costs_fit, in_order
from ltd.policies.cycle_costs import CycleCosts, between_lengths, nearest_convex
from ltd.policies.cycle_costs_file import COSTS, find_costs, load_costs, save_costs
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.setting import Setting, TunedElsewhereWarning
from ltd.target.target import Target
from ltd.tree import DraftTree, candidate_count

Array = np.ndarray[Any, Any]
Decision = tuple[int, int]
Reference = Callable[[Any, list[float], float, int], Decision]


# --- the rules once more, node by node ---


def chance(score: float) -> float:
    return 0.0 if math.isnan(score) else math.exp(score)


def best_first(scores: list[float]) -> list[int]:
    """Places by (score descending, place ascending); what is no number comes last."""
    return sorted(range(len(scores)), key=lambda place: math.inf if math.isnan(scores[place]) else -scores[place])


def cost_at(costs: CycleCosts, table: Array, row: int, length: float) -> float:
    return float(between_lengths(costs.lengths, table[row : row + 1], np.array([length]))[0, 0])


def budget_by_hand(rule: Budget, scores: list[float], length: float, width: int) -> Decision:
    tree = scores[: candidate_count(width, rule.max_depth)]
    found, gain = (-math.inf, 0), 1.0
    order = best_first(tree)[: rule.size]
    for size in range(len(order) + 1):
        gain += chance(tree[order[size - 1]]) if size else 0.0
        spent = cost_at(rule.costs, rule.costs.drafting, rule.max_depth, length)
        spent += cost_at(rule.costs, rule.costs.verifying, size, length)
        found = max(found, (gain / spent, -size))
    return rule.max_depth, -found[1]


def caddtree_by_hand(rule: CaDDTree, scores: list[float], length: float, width: int) -> Decision:
    tree = scores[: candidate_count(width, rule.max_depth)]
    drafting, gain, size = cost_at(rule.costs, rule.costs.drafting, rule.max_depth, length), 1.0, 0
    for place in best_first(tree)[: rule.size]:
        here, then = (cost_at(rule.costs, rule.costs.convex, size + more, length) for more in (0, 1))
        if (gain + chance(tree[place])) / (drafting + then) <= gain / (drafting + here):
            break
        gain, size = gain + chance(tree[place]), size + 1
    return rule.max_depth, size


def smart_by_hand(rule: Smart, scores: list[float], length: float, width: int) -> Decision:
    """Every node has its parent; only children of kept ones in the beam are looked at."""
    kept, beam, tokens, first, depth = {-1}, [-1], 1.0, 0, 0
    for depth in range(rule.max_depth + 1):
        level = scores[first : candidate_count(width, depth)]
        drafting = [cost_at(rule.costs, rule.costs.drafting, row, length) for row in range(rule.max_depth + 1)]
        share = (drafting[depth + 1] - drafting[depth]) / width if depth < rule.max_depth else 0.0
        order, mine = best_first(level), set[int]()
        for place in order:
            if beam[place // width] not in kept:
                continue
            size = len(kept) - 1 + len(mine)
            if size == rule.size:
                break
            here, then = (cost_at(rule.costs, rule.costs.convex, size + more, length) for more in (0, 1))
            if not rule.discount * chance(level[place]) * (drafting[depth] + here) > tokens * (share + then - here):
                break
            tokens += chance(level[place])
            mine.add(first + place)
        kept |= mine
        beam = [first + place for place in order[:width]]
        first = candidate_count(width, depth)
        if not mine & set(beam) or len(kept) - 1 == rule.size:
            break
    return depth, len(kept) - 1


BY_HAND: dict[type[CostAware], Reference] = {Budget: budget_by_hand, CaDDTree: caddtree_by_hand, Smart: smart_by_hand}


def made_scores(generator: np.random.Generator, count: int, width: int, depth: int, kind: str) -> Array:
    """float32 (n, C): children below their parents as a draft makes them; in steps, with -inf, or with NaN."""
    scores = np.zeros((count, candidate_count(width, depth)), dtype=np.float32)
    for row in scores:
        beam, first = np.zeros(1), 0
        for level in range(depth + 1):
            drops = generator.exponential(generator.choice([0.1, 1.0, 4.0]), (len(beam), width))
            drops = np.round(drops * 2) / 2 if kind == "ties" else drops
            found = (beam[:, None] - np.sort(drops, axis=1)).ravel()
            if kind in ("-inf", "NaN"):
                found[generator.random(len(found)) < 0.3] = -np.inf if kind == "-inf" else np.nan
            row[first : first + len(found)] = found
            first = candidate_count(width, level)
            beam = -np.sort(-row[first - len(found) : first])[:width].astype(np.float64)
    return scores


kinds = st.sampled_from(["any", "ties", "-inf", "NaN"])


def rule_of(kind: type[CostAware], costs: CycleCosts, depth: int, size: int, discount: float) -> Any:
    numbers = {"discount": discount} if kind is Smart else {}
    return kind(costs, max_depth=depth, size=size, **numbers)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", BY_HAND)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(1, 4),
    depth=st.integers(0, 4),
    deeper=st.integers(0, 1),
    size=st.integers(0, 40),
    discount=st.sampled_from([0.3, 0.8, 1.0]),
    scores=kinds,
)
def test_decisions_are_those_node_by_node(
    kind: type[CostAware], seed: int, width: int, depth: int, deeper: int, size: int, discount: float, scores: str
) -> None:
    generator = np.random.default_rng(seed)
    rule = rule_of(kind, made_costs(seed), depth, size, discount)
    made, lengths = made_scores(generator, 6, width, depth + deeper, scores), generator.integers(1, 400, 6)
    depths, sizes = rule.decisions(made, lengths, width)
    expected = [BY_HAND[kind](rule, row.tolist(), float(n), width) for row, n in zip(made, lengths, strict=True)]
    assert list(zip(depths.tolist(), sizes.tolist(), strict=True)) == expected
    assert depths.max(initial=0) <= depth and sizes.max(initial=0) <= size


def grown(scores: Array, lengths: Array, width: int, depth: int) -> DraftTree:
    """A tree with these scores, before its first level."""
    tree = DraftTree(len(scores), width, depth, 60, torch.device("cpu"))
    tree.begin(torch.zeros(len(scores), dtype=torch.int64), torch.from_numpy(lengths.astype(np.int32)))
    tree.scores.copy_(torch.from_numpy(scores))
    return tree


def ask(call: Any, tree: DraftTree) -> Decision:
    """A cycle as the decoder asks it."""
    assert call.speculate(tree.lengths, [1] * len(tree.roots))
    depth, tree.levels = 0, 1
    while depth < call.max_depth and call.continue_drafting(tree, depth):
        depth, tree.levels = depth + 1, tree.levels + 1
    return depth, call.choose_size(tree, depth)


@pytest.mark.parametrize("kind", BY_HAND)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31), batch=st.integers(1, 3), depth=st.integers(0, 3), size=st.integers(0, 20), scores=kinds
)
def test_asked_level_by_level_they_decide_the_same(
    kind: type[CostAware], seed: int, batch: int, depth: int, size: int, scores: str
) -> None:
    generator, width = np.random.default_rng(seed), 3
    rule = rule_of(kind, made_costs(seed), depth, size, 0.8)
    call = rule.start(batch)
    for _ in range(3):  # one cycle leaves nothing for the next
        made, lengths = made_scores(generator, batch, width, depth, scores), generator.integers(1, 400, batch)
        found = ask(call, grown(made, lengths, width, depth))
        depths, sizes = rule.decisions(made, lengths, width)
        if batch == 1 or kind is not Smart:
            assert found == (depths[0], round(float(sizes.mean())))
        else:  # those that have stopped wait for half of the others
            assert found[0] == sorted(depths.tolist())[batch // 2]
        call.keep(list(range(batch)))


def test_before_anything_is_drafted_they_draft() -> None:
    """As rules do that are asked at depth -1, where the text is known as well."""
    tree = grown(np.zeros((1, 12), np.float32), np.array([9]), 3, 1)
    for kind in BY_HAND:
        assert rule_of(kind, made_costs(1), 1, 5, 0.8).start(1).continue_drafting(tree, -1)


def flat(costs: list[float], drafting: float = 1.0) -> CycleCosts:
    """Costs of 0, 1, 2 … candidates, whatever the depth and the length."""
    return CycleCosts(Setting(2), np.zeros(1), np.full((3, 1), drafting), np.array(costs, dtype=np.float64)[:, None])


def test_the_budget_sees_behind_a_jump_and_takes_the_smallest_of_equals() -> None:
    """Costs jump before two candidates and stay: greedily nothing would be added, together they pay."""
    scores, lengths = np.log(np.array([[0.5, 0.5]], np.float32)), np.array([5])
    assert Budget(flat([1.0, 2.4, 2.4]), 0, 2).decisions(scores, lengths, 2)[1] == 2
    assert Budget(flat([1.0, 2.4, 4.0]), 0, 2).decisions(scores, lengths, 2)[1] == 0
    sure = np.zeros((1, 2), np.float32)
    assert Budget(flat([1.0, 3.0, 5.0]), 0, 2).decisions(sure, lengths, 2)[1] == 0  # 1 / 2 = 2 / 4 = 3 / 6


def test_over_convex_costs_greedy_is_the_best() -> None:
    """Then CaDDTree's first that does not help is where the best ratio is."""
    costs = flat((1.0 + 0.01 * np.arange(30) ** 2).tolist())
    scores, lengths = made_scores(np.random.default_rng(3), 40, 3, 2, "any"), np.full(40, 7)
    sizes = [kind(costs, 2, 29).decisions(scores, lengths, 3)[1].tolist() for kind in (Budget, CaDDTree)]
    assert sizes[0] == sizes[1] and len(set(sizes[0])) > 3


def test_smart_stops_where_nothing_pays_and_drafts_where_it_is_sure() -> None:
    drafting, length = 0.1 + 0.01 * np.arange(13.0)[:, None], np.array([30])
    costs = CycleCosts(Setting(1), np.zeros(1), drafting, np.full((41, 1), 2.0))
    sure, unsure = (np.full((1, candidate_count(1, 4)), score, np.float32) for score in (0.0, -9.0))
    assert Smart(costs, 1.0, 4, 40).decisions(unsure, length, 1) == (0, 0)
    assert Smart(costs, 1.0, 4, 40).decisions(sure, length, 1) == (4, 5)
    assert Smart(costs, 1.0, 4, 2).decisions(sure, length, 1) == (1, 2)  # where its size is reached


# --- costs ---


def cone(count: int) -> Array:
    """(count, count + 1): what convex curves that never fall are sums of, with weights of 0 or more; ± a constant."""
    places = np.arange(count)
    hinges = np.maximum(places[:, None] - places[:-1], 0)
    return np.concatenate([np.ones((count, 1)), -np.ones((count, 1)), hinges], axis=1)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 60), kind=st.sampled_from(["rising", "any", "pieces", "convex"])
)
def test_the_nearest_convex_curve_is_the_nearest(seed: int, count: int, kind: str) -> None:
    """A projection onto a cone: what is left is at a right angle to the curve, and helps along nothing in the cone."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=count)
    if kind == "rising":
        values = np.cumsum(np.abs(values))
    elif kind == "pieces":
        knots = np.unique(generator.integers(0, count, 5))
        values = np.interp(np.arange(count), knots, np.cumsum(generator.random(len(knots))))
    elif kind == "convex":
        values = np.cumsum(np.cumsum(np.abs(values)))
    found = nearest_convex(values)
    scale = np.abs(values).max() + 1e-9
    assert np.all(np.diff(found) >= -1e-9 * scale) and np.all(np.diff(found, 2) >= -1e-9 * scale)
    left, directions = values - found, cone(count)
    directions = directions / np.maximum(np.sqrt((directions**2).sum(axis=0)), 1e-9)
    assert abs(left @ found) <= 1e-7 * scale**2 * count
    assert (left @ directions).max() <= 1e-7 * scale * math.sqrt(count)
    if kind == "convex":
        np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-9)


def test_costs_between_lengths_are_on_lines() -> None:
    costs = made_costs(4)
    for length in (1, 16, 40, 64, 200, 256, 9000):
        expected = [np.interp(length, costs.lengths, row) for row in costs.verifying]
        np.testing.assert_allclose(costs.at(costs.verifying, np.array([length, 16]))[0], expected)
    one = np.arange(3.0)[:, None]
    assert between_lengths(np.array([5.0]), one, np.array([1, 9])).tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": np.array([16.0, 16.0, 20.0])}, "lengths of costs must ascend"),
        ({"lengths": np.array([16.0, 20.0])}, r"drafting of shape \(13, 3\) do not fit 2 lengths"),
        ({"verifying": np.zeros((0, 3))}, "verifying of shape"),
        ({"verifying": np.full((4, 3), np.nan)}, "verifying must be positive numbers that never fall"),
        ({"verifying": np.array([[2.0] * 3, [1.0] * 3])}, "verifying must be positive numbers that never fall"),
        ({"drafting": np.zeros((4, 3))}, "drafting must be positive"),
    ],
)
def test_costs_that_cannot_be_are_refused(changes: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(made_costs(0), **changes)


def test_costs_come_back_from_their_file(tmp_path: Path) -> None:
    costs = replace(made_costs(0), made_for=Setting(3, head_sha256="a", hardware="b", threads=2))
    save_costs(costs, tmp_path / COSTS)
    again = load_costs(tmp_path / COSTS)
    assert again.made_for == costs.made_for
    for name in ("lengths", "drafting", "verifying"):
        assert np.array_equal(getattr(again, name), getattr(costs, name))
    text = f"smart:costs={tmp_path / COSTS}:discount=0.6:max_depth=3:size=9"
    rule = parse_policy(text)
    assert str(rule) == "SMART, discount 0.6, depth up to 3, size up to 9"
    assert Method.parse(text).files == [tmp_path / COSTS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "is missing"),
        ({"format": "ltd-latency"}, "not of format"),
        ({"schema": 2}, "not of format"),
        ({"lengths": ["a"]}, "lengths"),
        ({"drafting": [[1.0], [1.0, 2.0]]}, ""),
        ({"made_for": {}}, "lacks made_for.width"),
        ({"discount": 0.5}, "does not know: discount"),
        ({"made_for": {"width": 3, "head": "a"}}, "does not know: made_for.head"),
        ({"made_for": {"width": 0}}, "beam width 0 is out of range"),
        ({"made_for": {"width": 17}}, "beam width 17 is out of range"),
        ({"verifying": [[1.0, 1.0, 1.0], [0.5, 1.0, 1.0]]}, "never fall"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    if change is not None:
        save_costs(made_costs(0), tmp_path / COSTS)
        values = json.loads((tmp_path / COSTS).read_text())
        (tmp_path / COSTS).write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=rf"costs .*{COSTS} cannot be used: .*{message}.*train-baseline rules writes"):
        parse_policy(f"budget:costs={tmp_path / COSTS}")


def test_the_shipped_costs_are_those_of_the_shipped_policies() -> None:
    folders = {str(load_bundle(file).policy.made_for.hardware): file for file in shipped_policies().iterdir()}
    folder = folders[min(folders, key=lambda processor: unlikeness(processor, processor_name()))]
    policy, costs = load_bundle(folder).policy, find_costs("shipped")
    assert policy.costs is not None and costs.made_for == policy.made_for
    for step, size in enumerate(policy.sizes):
        for depth in (0, 3, 12):
            spent = costs.drafting[depth, 0] + costs.verifying[size, 0]
            assert spent == pytest.approx(policy.costs.of(depth, step) - policy.costs.lookup)
    assert costs.most == 240 and costs.verifying[240, 0] > costs.verifying[policy.sizes[-1], 0]
    assert Method.parse("smart").files == Method.parse("budget:size=3").files == [folder / "policy.json"]


def test_costs_of_another_head_are_refused_and_of_another_machine_told() -> None:
    here = Setting(3, "x", 100, 10, 2, "head", "cpu", "float32", 2)
    costs = made_costs(0)
    for made, message in (
        ({"head_sha256": "other"}, "measured with head_sha256 other, and here it is head; measure them with"),
        ({"vocab_size": 7}, "vocab_size 7"),
    ):
        with pytest.raises(InputError, match=message):
            check_costs_fit(replace(costs, made_for=replace(here, **made)), here)
    for made in ({"hardware": "gpu"}, {"dtype": "bfloat16"}, {"threads": 1}):
        with pytest.warns(TunedElsewhereWarning, match="speed may not"):
            check_costs_fit(replace(costs, made_for=replace(here, **made)), here)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_costs_fit(costs, here)
        check_costs_fit(replace(costs, made_for=replace(here, target="y")), here)
        check_costs_fit(replace(costs, made_for=replace(here, width=4)), here)  # the draft takes it
    assert beam_width(Budget(replace(costs, made_for=replace(here, width=4)), 1, 2)) == 4


# --- the rules ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda costs: Smart(costs, discount=0.0), "discount is 0.0; it must be above 0 and at most 1"),
        (lambda costs: Smart(costs, discount=1.5), "discount is 1.5"),
        (lambda costs: Smart(costs, discount="much"), "discount is 'much', but must be a number"),
        (lambda costs: Smart(costs, max_depth=13), "depth 13 is out of range"),
        (lambda costs: Budget(costs, size=2.5), "size is 2.5, but must be a whole number"),
        (lambda costs: Budget(costs, 8, 241), "size 241 is beyond the costs, which are known to depth 12 and size 240"),
        (lambda costs: CaDDTree(costs, max_depth=-1), "depth -1 is out of range"),
    ],
)
def test_bad_numbers_are_named(make: Callable[[CycleCosts], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(made_costs(0, most=240))


@pytest.mark.parametrize("rule", [Smart, Budget, CaDDTree])
def test_numbers_are_kept_as_pythons_own(rule: Callable[..., Any]) -> None:
    made = rule(made_costs(0, most=240), max_depth=np.int64(3), size=torch.tensor(6))
    assert (type(made.max_depth), type(made.size)) == (int, int) and (made.max_depth, made.size) == (3, 6)


def test_chances_are_in_order() -> None:
    scores = np.array([[-1.0, np.nan, 0.0, -np.inf, -0.5]], np.float32)
    np.testing.assert_allclose(in_order(scores, 9), [[1.0, math.exp(-0.5), math.exp(-1.0), 0.0, 0.0]])
    assert in_order(scores, 2).shape == (1, 2) and in_order(scores[:, :0], 2).shape == (1, 0)


@pytest.mark.parametrize(
    "name", ["smart:size=20", "smart:discount=0.3:max_depth=3", "budget:size=20", "caddtree:max_depth=3"]
)
def test_greedy_text_is_that_without_a_draft(tiny_target: Callable[[str], Path], name: str) -> None:
    target, known = (AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32) for _ in range(2))
    prompts = [[5, 9, 33], [70, 4, 8, 15, 16]]
    decoder = Decoder(Target(target.eval()), OracleDraft(known.eval(), noise=1.0), parse_policy(name))
    plain = decoder.generate(prompts, max_new_tokens=24, policy="none")
    answers = decoder.generate(prompts, max_new_tokens=24)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in plain]
    assert decoder.last_statistics.acceptance_length > 1
