"""Traces without a draft: what is recorded, what it says, and what is learned from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_outcomes import random_network
from made_texts import made_text
from made_traces import made_latency
from recordings import NEW_TOKENS, QUESTIONS, Recorded

from ltd.cli import main
from ltd.common.shards import shard_file
from ltd.decoding.decoder import Decoder, Generation
from ltd.drafts.base import DEFAULT_WIDTH
from ltd.errors import InputError
from ltd.latency.model import LatencyModel
from ltd.loading import load
from ltd.lookup import MAX_TEXT, TEXT_FEATURES, TextScores, default_text_scores
from ltd.policies import Learned, Lookup, Policy, Static
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.tree import NOT_ASKED
from ltd_rl.baselines import lookup_search
from ltd_rl.baselines.lookup_search import best_lookup
from ltd_rl.traces.format import RecordedGeneration, bytes_per_position, load_traces, save_shard
from ltd_rl.traces.limits import relative_costs, worthwhile
from ltd_rl.traces.observations import decided
from ltd_rl.traces.optimum import best_static, hindsight, optimum
from ltd_rl.traces.outcomes import Outcomes, outcomes_of
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.traces.replay import gains, replay
from ltd_rl.traces.text import candidate_counts, propose_everywhere
from ltd_rl.traces.text_fit import fit_text_scores
from ltd_rl.trainers.exact import ExactConfig, ExactTrainer, train_exact

Folder = Callable[[str], Path]
SCORES, LADDER = default_text_scores(), (0, 1, 3, 8, 20)
SUMMARY = Summary(4, 2, text=TEXT_FEATURES)


@pytest.fixture(scope="module")
def config(data: Path, tiny_target: Folder, tmp_path_factory: pytest.TempPathFactory) -> RecordConfig:
    """Of traces that are recorded."""
    config = RecordConfig(
        data_dir=data,
        out=tmp_path_factory.mktemp("without"),
        tasks=tuple(QUESTIONS),
        max_new_tokens=NEW_TOKENS,
        target=str(tiny_target("llama")),
        draft="lookup",
        dtype="float32",
        shard_questions=1,
    )
    record(config)
    return config


@pytest.fixture(scope="module")
def generations(config: RecordConfig) -> list[RecordedGeneration]:
    return load_traces(config.out).generations


@pytest.fixture(scope="module")
def decoder(config: RecordConfig) -> Decoder:
    return load(config.target, "lookup", dtype="float32")


def bare(seed: int, positions: int) -> RecordedGeneration:
    """A made-up text without a draft."""
    generation, _ = made_text(seed, positions, depth=-1)
    return replace(generation, states=generation.states[:, :0])


def made_tables(seed: int, counts: list[int]) -> tuple[list[RecordedGeneration], Outcomes]:
    made = [bare(seed + number, count) for number, count in enumerate(counts)]
    return made, outcomes_of(made, made_latency(), LADDER, text=SCORES)


# --- recording ---


def test_the_answers_are_those_beside_a_head_and_nothing_is_drafted(
    recorded: Callable[[str], Recorded], generations: list[RecordedGeneration]
) -> None:
    beside = recorded("llama").traces.generations
    for mine, other in zip(generations, beside, strict=True):
        np.testing.assert_array_equal(mine.tokens, other.tokens)
        assert (mine.task, mine.question_id, mine.turn) == (other.task, other.question_id, other.turn)
        assert (mine.depth, mine.width, mine.positions) == (-1, 10, other.positions) and mine.positions > 0
        for name, shape in {"candidates": (0,), "scores": (0,), "path": (0,), "ranks": (0, 0), "states": (0,)}.items():
            assert getattr(mine, name).shape == (mine.positions, *shape), name
            assert getattr(mine, name).dtype == getattr(other, name).dtype, name
    assert bytes_per_position(10, -1, 0) == 0


def test_a_target_without_a_fitting_head_is_recorded_so_by_itself(config: RecordConfig, tmp_path: Path) -> None:
    record(replace(config, out=tmp_path, draft=None, depth=3))
    for file in sorted(config.out.glob("0*")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    record(replace(config, out=tmp_path), must_not_load)  # the same run, whatever depth is asked for


def must_not_load(*_: object, **__: object) -> Decoder:
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize("draft", ["lookup", None])
@pytest.mark.parametrize("kind", ["grid", "rules"])
def test_searches_of_a_heads_settings_are_refused_before_anything_is_recorded(
    config: RecordConfig, tmp_path: Path, kind: str, draft: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """No head fits this target."""
    data = ["--data-dir", str(config.data_dir), "--tasks", ",".join(config.tasks), "--target", str(config.target)]
    named = [] if draft is None else ["--draft", draft]
    assert main(["train-baseline", kind, "--out", str(tmp_path / "out"), *data, *named]) == 2
    assert "steer a draft head, so there must be one that fits; name it with --draft" in capsys.readouterr().err
    assert not (tmp_path / "out" / "work" / "traces").exists()


def test_a_shard_without_a_draft_keeps_what_it_was_given(tmp_path: Path) -> None:
    made = [bare(1, 7), bare(2, 0), bare(3, 4)]
    save_shard(shard_file(tmp_path, 0), made, 3, -1)
    found = load_traces(tmp_path)
    assert (found.width, found.depth, found.positions) == (3, -1, 11)
    for before, after in zip(made, found.generations, strict=True):
        np.testing.assert_array_equal(before.tokens, after.tokens)
        assert after.depth == -1 and after.ranks.shape == (before.positions, 0, 0)


def test_a_depth_without_a_tree_is_for_no_head(config: RecordConfig, tiny_head: Folder) -> None:
    assert replace(config, depth=-1).depth == -1
    with pytest.raises(InputError, match="depth -1 is out of range"):
        replace(config, draft=str(tiny_head("llama")), depth=-1)
    with pytest.raises(InputError, match="there must be one"):
        replace(config, draft="none")


# --- what they say ---


def test_tables_are_the_last_stage_of_those_beside_a_head(
    recorded: Callable[[str], Recorded], generations: list[RecordedGeneration]
) -> None:
    """With the same text and the same scores, what is looked up alone gains and costs the same."""
    latency = made_latency(width=DEFAULT_WIDTH)
    alone = outcomes_of(generations, latency, LADDER, text=SCORES)
    beside = outcomes_of(recorded("llama").traces.generations, latency, LADDER, text=SCORES)
    assert (alone.depth, alone.least_depth, alone.gains.shape[1:]) == (-1, NOT_ASKED, (1, len(LADDER)))
    np.testing.assert_array_equal(alone.gains[:, 0], beside.gains[:, NOT_ASKED])
    np.testing.assert_array_equal(alone.seconds[:, 0], beside.seconds[:, NOT_ASKED])
    np.testing.assert_array_equal(alone.text, beside.text)
    assert (alone.gains > 1).any()


def decode(decoder: Decoder, generation: RecordedGeneration, policy: Policy) -> list[tuple[int, int, int]]:
    """Depth, size and gain of every cycle of the real decoder, whose answer must be the recorded one."""
    prompt = generation.tokens[: generation.prompt_length].tolist()
    answer = decoder.generate(prompt, max_new_tokens=NEW_TOKENS, policy=policy)
    assert isinstance(answer, Generation)
    assert answer.token_ids == generation.tokens[generation.prompt_length :].tolist()
    found = answer.statistics
    return list(zip(found.depths, found.sizes, found.gains, strict=True))


def sized(seed: int) -> Learned:
    return Learned(
        Setting(10), 0, (0, 1, 4, 12), size_network=random_network(SUMMARY, 4, seed), max_text=32, text_scores=SCORES
    )


@pytest.mark.parametrize("policy", [Lookup(1), Lookup(8), Lookup(64, 0.0), Lookup(6, 0.4), *map(sized, range(6))])
def test_a_replay_is_the_decoder(decoder: Decoder, generations: list[RecordedGeneration], policy: Policy) -> None:
    sizes, most = set(), policy.max_text  # type: ignore[attr-defined]
    for generation in generations:
        found = replay(generation, policy, text=propose_everywhere(generation, SCORES, most))
        cycles = list(zip(found.depths.tolist(), found.sizes.tolist(), found.gains.tolist(), strict=True))
        assert cycles == decode(decoder, generation, policy)
        assert set(found.depths.tolist()) == {-1}
        sizes |= set(found.sizes.tolist())
    assert len(sizes) > 1 or isinstance(policy, Learned)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_the_optimum_is_the_shortest_way(seed: int, counts: list[int]) -> None:
    """What is gained is never read by anything, so each answer is a shortest path."""
    _, outcomes = made_tables(seed, counts)
    found = optimum(outcomes)
    assert set(found.depths.tolist()) == {NOT_ASKED}
    least = 0.0
    for start, end in zip(outcomes.starts[:-1], outcomes.starts[1:], strict=True):
        rest = {int(end): 0.0}
        for position in range(int(end) - 1, int(start) - 1, -1):
            rest[position] = min(
                float(outcomes.seconds[position, 0, step]) + rest[position + int(outcomes.gains[position, 0, step])]
                for step in range(len(LADDER))
            )
        least += rest[int(start)]
    assert found.total.seconds == pytest.approx(least, rel=1e-6)
    assert found.total.seconds <= hindsight(outcomes).total.seconds * (1 + 1e-6)
    depth, step, best = best_static(outcomes)
    assert depth == NOT_ASKED and 0 <= step < len(LADDER) and best.seconds >= least * (1 - 1e-6)


def test_the_choices_worth_having_are_sizes_alone(generations: list[RecordedGeneration]) -> None:
    latency = made_latency(verify_slope=0.01)
    sizes, depth = worthwhile(generations, latency, SCORES)
    assert depth == -1 and sizes[0] == 0 and 1 < sizes[-1] <= MAX_TEXT
    assert list(sizes) == sorted(set(sizes))


def test_scores_are_fitted_without_a_head(
    recorded: Callable[[str], Recorded], generations: list[RecordedGeneration]
) -> None:
    found = fit_text_scores(generations, 32)
    beside = fit_text_scores(recorded("llama").traces.generations, 32)
    assert found.head_scores.shape == found.head_log_chances.shape == (0,)
    np.testing.assert_array_equal(found.chances, beside.chances)


@pytest.mark.parametrize("generation", [bare(4, 9)])
def test_what_cannot_be_decided_is_told(generation: RecordedGeneration) -> None:
    proposals = propose_everywhere(generation, SCORES, 8)
    with pytest.raises(InputError, match="without a draft"):
        outcomes_of([generation], made_latency(), LADDER)
    with pytest.raises(InputError, match="depth 2 is out of range; these traces know no draft"):
        outcomes_of([generation], made_latency(), LADDER, depth=2, text=SCORES)
    with pytest.raises(InputError, match="without a draft"):
        replay(generation, Static(0, 3))
    with pytest.raises(InputError, match="depth 0 is out of range"):
        gains(generation, 0, 3, proposals)


# --- what is learned and searched for ---


def test_the_exact_trainer_learns_sizes_alone() -> None:
    _, training = made_tables(3, [80, 70, 90])
    _, validation = made_tables(50, [60, 50])
    config = ExactConfig(hidden=(8,), epochs=4, batch=32)
    result = train_exact(training, validation, (SUMMARY, SUMMARY), config, Setting(3))
    policy = result.policy
    assert policy.depth_network is None and policy.size_network is not None
    assert (policy.depth_limit, policy.max_text, policy.text_scores) == (0, MAX_TEXT, SCORES)
    assert policy.sizes == LADDER
    assert decided(policy, validation).throughput == max(epoch.validation for epoch in result.epochs)


def test_chances_of_sizes_alone_add_up() -> None:
    _, outcomes = made_tables(3, [30, 21])
    trainer = ExactTrainer(outcomes, (SUMMARY, SUMMARY), ExactConfig(hidden=(8,), epochs=1, batch=16))
    trainer.epoch()
    rows = np.array([0, 17, 50])
    chances = trainer.log_chances(rows).exp().detach().numpy()
    assert chances.shape == trainer.rewards(rows).shape == (3, 1, len(LADDER))
    np.testing.assert_allclose(chances.sum((1, 2)), 1.0, rtol=1e-5)


def test_what_is_decided_everywhere_is_what_is_decided_in_turn() -> None:
    made, outcomes = made_tables(6, [40, 30])
    policy = replace(sized(2), made_for=Setting(3), max_text=MAX_TEXT, sizes=LADDER[:4])
    outcomes = replace(outcomes, sizes=LADDER[:4], gains=outcomes.gains[..., :4], seconds=outcomes.seconds[..., :4])
    found = decided(policy, outcomes)
    cycles = [replay(each, policy, text=propose_everywhere(each, SCORES, MAX_TEXT)) for each in made]
    assert found.cycles == sum(len(each.gains) for each in cycles)


def test_costs_without_a_draft_are_those_of_verifying() -> None:
    _, outcomes = made_tables(6, [40])
    latency = without_drafting(made_latency())
    costs = relative_costs(outcomes, latency)
    assert (costs.begin, costs.expand) == (0.0, 0.0)
    assert costs.lookup > 0 and list(costs.verify) == sorted(costs.verify) and len(costs.verify) == len(LADDER)


def without_drafting(latency: LatencyModel) -> LatencyModel:
    """The same, where drafting takes no time."""
    zeros = {name: np.zeros_like(latency.parts["begin"].median) for name in ("median", "low", "high", "drift")}
    parts = {name: replace(latency.parts[name], **zeros) for name in ("begin", "expand")}
    return replace(latency, parts={**latency.parts, **parts})


@pytest.mark.parametrize("scores", [SCORES, TextScores(SCORES.chances, *np.float32([[-5, -1], [-4, -0.5]]))])
def test_the_best_way_to_look_up_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch, scores: TextScores) -> None:
    """Against replays of the policies themselves, cycle by cycle."""
    monkeypatch.setattr(lookup_search, "SIZES", (1, 4, 9))
    monkeypatch.setattr(lookup_search, "LEAST", (0.0, 0.1, 0.3))
    made, latency = [bare(seed, 60) for seed in range(4)], made_latency(verify_slope=0.05)
    policy, found = best_lookup(made, latency, scores)
    reached = {}
    for rule in (Lookup(size, least) for size in (1, 4, 9) for least in (0.0, 0.1, 0.3)):
        seconds = 0.0
        for generation in made:
            proposals = propose_everywhere(generation, scores, rule.size)
            cycles = replay(generation, rule, text=proposals)
            assert (cycles.sizes <= candidate_counts(generation, proposals)[cycles.positions, NOT_ASKED]).all()
            lengths = generation.prompt_length + cycles.positions
            trees = [latency.verify(each, lengths) + latency.other(each, lengths) for each in (cycles.sizes, 0)]
            seconds += float((latency.plain(lengths) + trees[0] - trees[1] + latency.lookup(lengths)).sum())
        reached[rule] = seconds
    assert found.seconds == pytest.approx(min(reached.values()), rel=1e-5)
    assert reached[policy] == pytest.approx(min(reached.values()), rel=1e-5)
    assert len({round(each, 6) for each in reached.values()}) > 3
