"""Traces: a replay of them is the decoder, cycle by cycle; and recording them can be stopped at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_outcomes import random_network
from made_traces import made_generations
from operator_reference import select_nodes
from recordings import DEPTH, NEW_TOKENS, Recorded, Rounded, Schedule, assert_same, decode, load_bigrams
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_models import FAMILIES

from ltd.common.shards import shard_file
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.policies import Learned, Static
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.observation import Summary
from ltd.policies.learned.setting import Setting
from ltd.tree import DraftTree, candidate_count
from ltd_rl.traces import record as recording
from ltd_rl.traces.arrays import NO_RANK
from ltd_rl.traces.format import (
    BY_POSITION,
    RecordedGeneration,
    bytes_per_position,
    load_traces,
    path_ranks,
    save_shard,
)
from ltd_rl.traces.record import record
from ltd_rl.traces.replay import follow, gains, replay

Folder = Callable[[str], Path]
Arrays = dict[str, Any]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("depth", "size"), [(0, 0), (0, 3), (0, 60), (1, 12), (3, 20), (4, 60), (4, 512)])
def test_a_fixed_schedule_is_the_decoder(
    recorded: Callable[[str], Recorded], family: str, depth: int, size: int
) -> None:
    run = recorded(family)
    for generation in run.traces.generations:
        assert_same(
            replay(generation, (depth, size)),
            decode(run.decoder, generation, Static(depth, size)),
        )


def test_bfloat16_is_exact_too(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    config = replace(recorded("qwen3").config, out=tmp_path, dtype="bfloat16")
    record(config, load_bigrams)
    decoder = load_bigrams(config.target, config.draft, dtype="bfloat16")
    for generation in load_traces(tmp_path).generations:
        for depth, size in ((0, 3), (4, 60)):
            assert_same(replay(generation, (depth, size)), decode(decoder, generation, Static(depth, size)))


@pytest.mark.parametrize("width", [1, 3, 12])
def test_other_beam_widths_are_exact_too(recorded: Callable[[str], Recorded], tmp_path: Path, width: int) -> None:
    run = recorded("llama")
    record(replace(run.config, out=tmp_path, width=width), lambda *_, **__: run.decoder)
    traces = load_traces(tmp_path)
    assert traces.width == width
    for generation in traces.generations:
        for depth, size in ((0, width), (2, 5), (4, 60)):
            policy = Static(depth, size, width=width)
            assert_same(replay(generation, (depth, size)), decode(run.decoder, generation, policy))


def test_paths_are_long_enough_to_mean_something(recorded: Callable[[str], Recorded]) -> None:
    seen = {gain for g in recorded("llama").traces.generations for gain in gains(g, DEPTH, 60).tolist()}
    assert seen == set(range(1, DEPTH + 3))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_any_schedule_is_the_decoder(recorded: Callable[[str], Recorded], draw: st.DataObject) -> None:
    run = recorded(draw.draw(st.sampled_from(["llama", "qwen3"])))
    generation = draw.draw(st.sampled_from(run.traces.generations))
    count = generation.positions
    depths = draw.draw(st.lists(st.integers(0, DEPTH), min_size=count, max_size=count))
    sizes = draw.draw(st.lists(st.one_of(st.integers(0, 30), st.integers(0, 512)), min_size=count, max_size=count))
    policy = Schedule(generation, depths, sizes)
    real = decode(run.decoder, generation, policy)
    assert_same(replay(generation, (np.array(depths), np.array(sizes))), real)
    assert_same(replay(generation, policy), real)


@dataclass(frozen=True)
class ByScores:
    """Looks at everything that a policy may see."""

    limit: float
    max_depth: int = DEPTH
    max_size: int = 200

    def start(self, batch: int) -> ByScores:
        return self

    def keep(self, rows: list[int]) -> None:
        pass

    def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
        return bool(lengths[0] % 3)

    def continue_drafting(self, tree: DraftTree, depth: int) -> bool:
        return float(tree.newest_scores.logsumexp(1)[0]) > self.limit - depth

    def choose_size(self, tree: DraftTree, depth: int) -> int:
        scores = tree.scores[0, : tree.candidates]
        return (int((scores > 2 * self.limit).sum()) + int(tree.lengths[0])) % 200


@pytest.mark.parametrize("limit", [-8.0, -2.0, -0.5])
def test_a_policy_that_looks_is_the_decoder(recorded: Callable[[str], Recorded], limit: float) -> None:
    run = recorded("llama")
    for generation in run.traces.generations:
        assert_same(replay(generation, ByScores(limit)), decode(run.decoder, generation, ByScores(limit)))


@pytest.mark.parametrize("question", ["speculate", "continue_drafting", "choose_size"])
def test_an_answer_that_is_none_is_named(recorded: Callable[[str], Recorded], question: str) -> None:
    policy = type("Odd", (ByScores,), {question: lambda *arguments: 2.5})(-2.0)
    with pytest.raises(InputError, match=f"what Odd.{question} answers is 2.5, but must be"):
        replay(recorded("llama").traces.generations[0], policy)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("costs", [None, Costs(0.4, 0.3, (1.0, 1.1, 1.4, 2.0))])
def test_a_learned_policy_is_the_decoder(recorded: Callable[[str], Recorded], family: str, costs: Costs | None) -> None:
    """With scores, states and, with costs, cycles without a draft."""
    run, layout = recorded(family), Summary(best=24, newest=8, states=32)
    depths, sizes, plain = set(), set(), 0
    for seed in range(6):
        depth, size = random_network(layout, 2, seed), random_network(layout, 4, seed + 100)
        policy = Learned(Setting(10), DEPTH, (2, 6, 20, 60), depth, size, costs=costs)
        again = replace(policy)  # with its own allowance, which goes on from answer to answer
        for generation in run.traces.generations:
            cycles = replay(generation, policy)
            assert_same(cycles, decode(run.decoder, generation, Rounded(again)))
            depths |= set(cycles.depths.tolist())
            sizes |= set(cycles.sizes.tolist())
            plain += int((cycles.sizes == 0).sum())
    assert len(depths) > 1 and len(sizes - {0}) > 2 and (plain > 0) == (costs is not None)


def test_answers_end_at_stop_tokens_too(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    """With a stop token that falls into accepted paths, and a limit that does."""
    run = recorded("llama")
    longest = max(run.traces.generations, key=lambda g: g.positions)
    stop = int(longest.tokens[longest.prompt_length + longest.positions // 2])
    config = replace(run.config, out=tmp_path)

    def load(*arguments: Any, **options: Any) -> Decoder:
        decoder = load_bigrams(*arguments, **options)
        decoder.stop_ids = (stop,)
        return decoder

    record(config, load)
    decoder, generations = load(config.target, config.draft, dtype="float32"), load_traces(tmp_path).generations
    assert any(g.tokens[-1] == stop and g.positions < NEW_TOKENS - 1 for g in generations)
    for generation in generations:
        for depth, size in ((0, 10), (2, 30), (4, 100)):
            assert_same(replay(generation, (depth, size)), decode(decoder, generation, Static(depth, size)))


def test_a_replay_can_begin_anywhere(recorded: Callable[[str], Recorded]) -> None:
    generation = recorded("llama").traces.generations[0]
    whole = replay(generation, (3, 20))
    for cycle, position in enumerate(whole.positions.tolist()):
        rest = replay(generation, (3, 20), start=position)
        np.testing.assert_array_equal(rest.gains, whole.gains[cycle:])
    assert len(replay(generation, Static(3, 20), start=generation.positions).gains) == 0
    np.testing.assert_array_equal(follow(np.array([2, 1, 1, 3, 1])), [0, 2, 3])


def test_ranks_are_those_of_a_brute_force_selection(recorded: Callable[[str], Recorded]) -> None:
    generation = max(recorded("llama").traces.generations, key=lambda g: g.positions)
    width = generation.width
    for position in range(0, generation.positions, 5):
        path = [node for node in generation.path[position].tolist() if node >= 0]
        for depth in range(DEPTH + 1):
            count = candidate_count(width, depth)
            scores = generation.scores[position, :count].tolist()
            order = sorted(range(count), key=lambda index: (-scores[index], index))
            expected = [order.index(node) for node in path[: depth + 1]]
            ranks = generation.ranks[position, depth].tolist()
            assert ranks == expected + [NO_RANK] * (DEPTH + 1 - len(expected))
            assert expected == sorted(set(expected))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), kinds=st.integers(1, 6), depth=st.integers(0, 3))
def test_ranks_with_equal_and_infinite_scores(seed: int, kinds: int, depth: int) -> None:
    """Against the reference of `select_tree`, for every size."""
    width, generator = 3, np.random.default_rng(seed)
    starts = [0, *(candidate_count(width, level) for level in range(depth + 1))]
    steps = np.array([0.0, -0.5, -1.0, -2.0, -0.0, -np.inf], dtype=np.float32)[:kinds]
    scores, parents, path = [], [], []
    for level in range(depth + 1):
        beam = [-1] * width if level == 0 else list(range(starts[level - 1], starts[level]))[:width]
        rows = beam[:1] if level == 0 else beam
        for parent in rows:
            for _ in range(width):
                above = 0.0 if parent < 0 else scores[parent]
                scores.append(float(np.float32(above + generator.choice(steps))))
                parents.append(parent)
        above = -1 if level == 0 else path[-1]
        children = [index for index in range(starts[level], starts[level + 1]) if parents[index] == above]
        path.append(int(generator.choice(children)) if children and above != -2 else -2)
    found = np.array([[node if node >= 0 else -1 for node in path]], dtype=np.int16)
    ranks = path_ranks(np.array([scores], dtype=np.float32), found, width)[0]
    for deepest in range(depth + 1):
        count = starts[deepest + 1]
        for size in range(count + 1):
            nodes = select_nodes(list(range(count)), scores[:count], parents[:count], size, root=-5)
            chosen = {token for token in nodes.tokens if token >= 0}
            for level in range(depth + 1):
                expected = level <= deepest and path[level] in chosen
                assert (ranks[deepest, level] < size) == expected


def test_a_shard_keeps_what_it_was_given(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    run = recorded("llama")
    generations = run.traces.generations
    titles = [(g.task, g.question_id, g.turn) for g in generations]
    assert titles == [("first", "7", 0), ("first", "8", 0), ("second", "7", 0), ("second", "7", 1), ("second", "8", 0)]
    save_shard(shard_file(tmp_path, 0), generations, run.traces.width, run.traces.depth)
    again = load_traces(tmp_path)
    assert (again.width, again.depth, again.positions) == (10, DEPTH, run.traces.positions)
    for before, after in zip(generations, again.generations, strict=True):
        assert (before.task, before.turn, before.prompt_length) == (after.task, after.turn, after.prompt_length)
        for name in ("tokens", *BY_POSITION):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    arrays = load_file(shard_file(tmp_path, 0))  # any reader of safetensors will do
    stored = sum(arrays[name].nbytes for name in BY_POSITION)
    assert stored == again.positions * bytes_per_position(10, DEPTH, again.generations[0].states.shape[1])
    assert bytes_per_position(10, 12, 576) == 11196


def test_rows_and_shards_change_no_content(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    run = recorded("llama")
    record(replace(run.config, out=tmp_path, rows=100, shard_questions=3), load_bigrams)
    assert [file.name for file in sorted(tmp_path.glob("0*"))] == ["00000.safetensors", "00001.safetensors"]
    for before, after in zip(run.traces.generations, load_traces(tmp_path).generations, strict=True):
        for name in ("tokens", *BY_POSITION):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_chunks_of_long_texts_change_nothing(
    recorded: Callable[[str], Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recorded("mistral").config
    monkeypatch.setattr("ltd.target.target.PREFILL_CHUNK", 16)
    monkeypatch.setattr("ltd.drafts.eagle3.draft.READ_CHUNK", 9)
    record(replace(config, out=tmp_path), load_bigrams)
    assert contents(tmp_path) == contents(config.out)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("killed_at", [0, 1, 2, 4])
def test_a_killed_recording_goes_on(
    recorded: Callable[[str], Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    run, calls = recorded("llama"), 0
    config = replace(run.config, out=tmp_path)
    usual = recording.record_answer

    def killed(*arguments: Any) -> RecordedGeneration:
        nonlocal calls
        calls += 1
        if calls > killed_at:
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(recording, "record_answer", killed)
    with pytest.raises(KeyboardInterrupt):
        record(config, load_bigrams)
    assert len(list(tmp_path.glob("0*"))) == min(killed_at, 3)  # the third question has two answers
    monkeypatch.setattr(recording, "record_answer", usual)
    record(config, load_bigrams)
    assert contents(tmp_path) == contents(run.config.out)
    record(config, must_not_load)  # nothing is missing


def must_not_load(*arguments: Any, **options: Any) -> Any:
    """Stands in for `ltd.load` where nothing may be loaded."""
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"depth": 3}, "holds a run with depth 4, and this one has 3"),
        ({"max_new_tokens": 9}, "max_new_tokens 40"),
        ({"tasks": ("first",)}, "holds a run with"),
        ({"dtype": "bfloat16"}, "dtype 'float32'"),
        ({"target": "other"}, "holds a run with target"),
        ({"draft": None}, "holds a run with depth 4, and this one has -1"),  # no head fits this target
    ],
)
def test_the_folder_of_another_run_is_refused(
    recorded: Callable[[str], Recorded], changes: dict[str, Any], complaint: str
) -> None:
    config = recorded("llama").config
    before = contents(config.out)
    with pytest.raises(InputError, match=complaint):
        record(replace(config, **changes), must_not_load)
    assert contents(config.out) == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"depth": 13}, "depth 13"),
        ({"rows": 0}, "rows is 0"),
        ({"shard_questions": 0}, "shard_questions is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"draft": "none"}, "there must be one"),
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
        ({"tasks": ("third",)}, "holds these tasks: first, second"),
        ({"gigabytes": 1e-6}, "gigabytes is 1e-06"),
        ({"max_new_tokens": 10**15, "gigabytes": float("inf")}, "the disk has only"),
    ],
)
def test_bad_settings_are_told_before_a_model_loads(
    recorded: Callable[[str], Recorded], tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        record(replace(recorded("llama").config, **{"out": tmp_path / "out", **changes}), must_not_load)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("decisions", "options", "complaint"),
    [
        ((5, 3), {}, "depth 5 is out of range"),
        ((-1, 3), {}, "depth -1"),
        ((2, 513), {}, "size 513"),
        ((2, -1), {}, "size -1"),
        ((2.0, 3), {}, "whole number"),
        ((np.array([1, 2]), 3), {}, r"depths of shape \(2,\)"),
        ((2, 3), {"start": -1}, "start -1"),
        ((2, 3), {"start": 40}, "start 40"),
        (Static(5, 10), {}, "to depth 5"),
        (ByScores(-1.0, max_size=0), {}, "must answer 0 … 0"),
    ],
)
def test_bad_decisions(
    recorded: Callable[[str], Recorded], decisions: Any, options: dict[str, int], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        replay(recorded("llama").traces.generations[0], decisions, **options)


@pytest.mark.parametrize("damage", [b"", b"short", b"\x08" + b"\0" * 7 + b"no json!"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: bytes) -> None:
    shard_file(tmp_path, 0).write_bytes(damage)
    with pytest.raises(InputError, match="cannot be read as traces"):
        load_traces(tmp_path)


def test_a_cut_shard_is_named(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    whole = shard_file(recorded("llama").config.out, 0).read_bytes()
    shard_file(tmp_path, 0).write_bytes(whole[:-100])
    with pytest.raises(InputError, match="cannot be read as traces"):
        load_traces(tmp_path)


def damaged(name: str, place: tuple[int, ...], value: int) -> Callable[[Arrays], Arrays]:
    """One number of an array exchanged."""

    def damage(arrays: Arrays) -> Arrays:
        changed = arrays[name].copy()
        changed[place] = value
        return {**arrays, name: changed}

    return damage


def retyped(name: str, kind: type) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: arrays[name].astype(kind)}


def reshaped(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: np.ascontiguousarray(change(arrays[name]))}


# Of a generation whose path at position 0 has nodes of levels 0 and 1, and none of level 2, in trees of width 3.
DAMAGES: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (lambda arrays: {name: array for name, array in arrays.items() if name != "states"}, "it lacks states"),
    (lambda arrays: {**arrays, "odd": arrays["path"]}, "it holds odd, which no traces have"),
    (retyped("scores", np.float16), "scores is of type float16, but must be of float32"),
    (retyped("path", np.float64), "path says dtype = 'F64', but it must be"),
    (retyped("tokens", np.int16), "tokens is of type int16, but must be of int32"),
    (reshaped("candidates", lambda array: array[:, 1:]), r"candidates is of shape \(4, 29\), but .* \(4, 30\)"),
    (reshaped("ranks", lambda array: array[:, :, :3]), r"ranks is of shape \(4, 4, 3\), but .* \(4, 4, 4\)"),
    (reshaped("scores", lambda array: array[:-1]), r"scores is of shape \(3, 30\), but .* \(4, 30\)"),
    (reshaped("states", lambda array: array[:-1]), r"states is of shape \(3, 2\), but .* \(4, any\)"),
    (reshaped("states", lambda array: array[:, 0]), r"states is of shape \(4,\), but .* \(4, any\)"),
    (reshaped("tokens", lambda array: array[1:]), "tokens is of shape"),
    (damaged("tokens", (2,), -7), "tokens hold -7, which is no token"),
    (damaged("path", (0, 1), 2), "path holds numbers that are no candidates of their levels"),
    (damaged("path", (0, 0), 3), "path holds numbers that are no candidates of their levels"),
    (damaged("path", (0, 3), 30), "path holds numbers that are no candidates of their levels"),
    (damaged("path", (0, 2), -2), "path holds numbers that are no candidates of their levels"),
    (damaged("path", (0, 3), 21), "path goes on below a level at which it has ended"),
    (damaged("path", (0, 1), -1), "ranks are not those of the nodes in path"),
    (damaged("ranks", (0, 0, 1), 0), "ranks are not those of the nodes in path"),
    (damaged("ranks", (0, 1, 0), 12), "ranks hold numbers beyond the candidates of their depth"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES, ids=range(len(DAMAGES)))
def test_arrays_that_cannot_be_are_named(damage: Callable[[Arrays], Arrays], complaint: str, tmp_path: Path) -> None:
    (made,) = made_generations(0, [4])
    path = np.array([[1, 4, -1, -1], [-1] * 4, [0, 3, 12, 29], [2, -1, -1, -1]], dtype=np.int16)
    made = replace(made, path=path, ranks=path_ranks(made.scores, path, made.width))
    file = shard_file(tmp_path, 0)
    save_shard(file, [made], made.width, made.depth)
    np.testing.assert_array_equal(load_traces(tmp_path).generations[0].path, path)
    with safe_open(file, "numpy") as stored:
        metadata = stored.metadata()
    save_file(damage(load_file(file)), file, metadata)
    with pytest.raises(InputError, match=f"cannot be read as traces .*{complaint}"):
        load_traces(tmp_path)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"data_offsets": [0, 4]}, "path does not fill its place in the file"),
        ({"data_offsets": [2**40, 2**40 + 32]}, "path does not fill its place in the file"),
        ({"data_offsets": [-8, 24]}, "path says data_offsets.0 = -8, but it must be at least 0"),
        ({"data_offsets": [0]}, "data_offsets = .*must be a list of at least 2"),
        ({"shape": [4, -4]}, "path says shape.1 = -4, but it must be at least 0"),
        ({"shape": 4}, "path says shape = 4, but it must be a list"),
        (None, "its head lacks ltd_traces"),
    ],
)
def test_a_head_that_cannot_be_is_named(entry: dict[str, Any] | None, complaint: str, tmp_path: Path) -> None:
    (made,) = made_generations(0, [4])
    file = shard_file(tmp_path, 0)
    save_shard(file, [made], made.width, made.depth)
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:start])
    if entry is None:
        head["__metadata__"] = {}
    else:
        head["path"].update(entry)
    written = json.dumps(head).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + content[start:])
    with pytest.raises(InputError, match=f"cannot be read as traces .*{complaint}"):
        load_traces(tmp_path)


def test_a_folder_without_traces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no traces"):
        load_traces(tmp_path)


def test_shards_of_two_depths_do_not_go_together(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    run = recorded("llama")
    generation = run.traces.generations[0]
    shallow = replace(
        generation,
        candidates=generation.candidates[:, : candidate_count(10, 1)],
        scores=generation.scores[:, : candidate_count(10, 1)],
        path=generation.path[:, :2],
        ranks=generation.ranks[:, :2, :2],
        states=generation.states,
    )
    save_shard(shard_file(tmp_path, 0), [generation], 10, DEPTH)
    save_shard(shard_file(tmp_path, 1), [shallow], 10, 1)
    with pytest.raises(InputError, match="another width or depth"):
        load_traces(tmp_path)


def test_an_answer_of_one_token_has_no_cycle(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    record(replace(recorded("llama").config, out=tmp_path, max_new_tokens=1), load_bigrams)
    generations = load_traces(tmp_path).generations
    assert [generation.positions for generation in generations] == [0] * 5
    assert all(len(replay(g, decisions).gains) == 0 for g in generations for decisions in ((2, 5), Static(2, 5)))
