"""Compact traces: what replays and training need of recorded ones comes back."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_texts import made_copies
from made_traces import made_latency
from safetensors.numpy import load, save

from ltd.common.assets import shipped_traces
from ltd.errors import InputError
from ltd.lookup.scores import default_text_scores
from ltd.policies.learned.setting import Setting
from ltd.training.data.own_questions import OWN
from ltd_rl.traces.compact import ARRAYS, TRACES_FACTS, codes_of, load_compact, save_compact, scores_of
from ltd_rl.traces.format import RecordedGeneration, shallow
from ltd_rl.traces.outcomes import outcomes_of
from ltd_rl.traces.text_fit import fit_text_scores

MADE_FOR = Setting(3, "made")


@pytest.fixture(scope="module")
def generations() -> list[RecordedGeneration]:
    return [made_copies(seed, 40) for seed in range(4)]


@pytest.fixture
def folder(generations: list[RecordedGeneration], tmp_path: Path) -> Path:
    save_compact(tmp_path / "traces", generations, fit_text_scores(generations, 24), 3, 20, MADE_FOR)
    return tmp_path / "traces"


def test_gains_of_trees_that_were_kept_come_back(generations: list[RecordedGeneration], folder: Path) -> None:
    traces, scores = load_compact(folder), fit_text_scores(generations, 24)
    assert (traces.nodes, traces.made_for) == (20, MADE_FOR)
    sizes, text = range(traces.nodes + 1), scores
    whole, kept = (
        outcomes_of(each, made_latency(), sizes, text=text, most=24) for each in (generations, traces.generations)
    )
    # The made-up scores have ties between levels, whose order is not kept.
    assert np.mean(whole.gains != kept.gains) < 0.02
    np.testing.assert_array_equal(whole.text, kept.text)
    np.testing.assert_array_equal(whole.lengths, kept.lengths)
    for before, after in zip(generations, traces.generations, strict=True):
        assert (before.task, before.question_id, before.prompt_length) == (
            after.task,
            after.question_id,
            after.prompt_length,
        )
        np.testing.assert_array_equal(before.tokens, after.tokens)


def test_what_is_kept_has_its_scores_and_its_order(generations: list[RecordedGeneration], folder: Path) -> None:
    for before, after in zip(generations, load_compact(folder).generations, strict=True):
        there = after.scores > -100
        assert 0.3 < there.mean() <= 1.0
        steps = np.abs(np.sqrt(-after.scores[there]) - np.sqrt(-before.scores[there]))
        assert steps.max() < 0.05
        start = 0
        for width in (3, 9, 9, 9):
            block = slice(start, start + width)
            for old, new, kept in zip(before.scores[:, block], after.scores[:, block], there[:, block], strict=True):
                np.testing.assert_array_equal(np.argsort(-old[kept], kind="stable"), np.argsort(-new[kept]))
            start += width


def test_shallower_traces_are_those_of_the_shallower_recording(
    generations: list[RecordedGeneration], tmp_path: Path
) -> None:
    scores = default_text_scores()
    save_compact(tmp_path / "cut", generations, scores, 1, 20, MADE_FOR)
    save_compact(tmp_path / "recorded", [shallow(each, 1) for each in generations], scores, 1, 20, MADE_FOR)
    assert (tmp_path / "cut" / ARRAYS).read_bytes() == (tmp_path / "recorded" / ARRAYS).read_bytes()


def test_what_cannot_be_kept_is_refused(generations: list[RecordedGeneration], tmp_path: Path) -> None:
    scores, empty = default_text_scores(), replace(generations[0], prompt_length=len(generations[0].tokens) - 1)
    for given, depth, nodes, complaint in (
        ([], 1, 20, "no cycle in these traces"),
        ([empty], 1, 20, "no cycle in these traces"),
        (generations, -1, 20, "depth -1"),
        (generations, 9, 20, "a depth of 0 … 3"),
        (generations, 1, 0, "nodes 0"),
    ):
        with pytest.raises(InputError, match=complaint):
            save_compact(tmp_path / "refused", given, scores, depth, nodes, MADE_FOR)
    assert not (tmp_path / "refused").exists()


def test_codes_are_finer_near_zero_and_go_back() -> None:
    scores = -np.geomspace(1e-3, 30.0, 200).astype(np.float32)
    codes = codes_of(scores)
    assert np.all(np.diff(codes.astype(int)) >= 0) and codes[-1] == 255
    again = scores_of(codes)
    assert np.abs(np.sqrt(-again) - np.sqrt(np.minimum(-scores, 20.0))).max() < 0.01
    np.testing.assert_array_equal(codes_of(again), codes)


@pytest.mark.parametrize("name", [TRACES_FACTS, ARRAYS])
def test_damaged_or_missing_files_are_one_sentence(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"[]", None):
        (folder / name).unlink()
        if damaged is not None:
            (folder / name).write_bytes(damaged)
        with pytest.raises(InputError, match=r"the traces in .* cannot be used"):
            load_compact(folder)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("change", [{"width": 2}, {"depth": 2}, {"generations": []}, {"schema": 9}, {"made_for": 1}])
def test_facts_that_do_not_fit_the_arrays_are_refused(folder: Path, change: dict[str, object]) -> None:
    facts = json.loads((folder / TRACES_FACTS).read_text())
    (folder / TRACES_FACTS).write_text(json.dumps({**facts, **change}))
    with pytest.raises(InputError, match=r"the traces in .* cannot be used"):
        load_compact(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"path": None}, "it lacks path"),
        ({"odd": np.zeros(3)}, "it holds odd, which no traces have"),
        ({"falls": lambda array: array.astype(np.uint16)}, "falls is of type uint16, but must be of uint8"),
        ({"places": lambda array: array[1:]}, "places is of shape"),
        ({"counts": lambda array: array[:, 1:]}, "counts is of shape"),
        ({"merged_tokens": lambda array: array[1:]}, "merged_tokens is of shape"),
        ({"places": lambda array: np.full_like(array, 250)}, "more candidates than their levels have"),
        ({"path": lambda array: np.full_like(array, 254)}, "path holds numbers that are no candidates of their levels"),
        ({"tokens": lambda array: -1 - array}, "tokens hold -"),
    ],
)
def test_arrays_that_cannot_be_are_named(folder: Path, change: dict[str, Any], complaint: str) -> None:
    arrays, facts = load(lzma.decompress((folder / ARRAYS).read_bytes())), folder / TRACES_FACTS
    for name, made in change.items():
        if made is None:
            del arrays[name]
        else:
            arrays[name] = np.ascontiguousarray(made(arrays[name]) if callable(made) else made)
    content = lzma.compress(save(arrays))
    (folder / ARRAYS).write_bytes(content)
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "sha256": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(InputError, match=f"the traces in .* cannot be used: .*{complaint}"):
        load_compact(folder)


def test_the_shipped_traces_are_small_and_of_training_questions_only() -> None:
    traces = load_compact(shipped_traces())
    assert sum(file.stat().st_size for file in shipped_traces().iterdir()) < 1_500_000
    assert {generation.task for generation in traces.generations} == {OWN}
    assert len({generation.question_id for generation in traces.generations}) == len(traces.generations) > 40
    assert sum(generation.positions for generation in traces.generations) > 4000
