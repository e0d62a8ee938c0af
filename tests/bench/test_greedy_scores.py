"""Factors for greedy scores: trees with a factor are those of sharper logits, and halves do not see themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recordings import DEPTH, Recorded

import greedy_scores
from ltd.tree import candidate_count
from ltd_rl.traces import sharpness_fit
from ltd_rl.traces.sharpness_fit import see


@pytest.fixture
def run(recorded: Callable[..., Recorded], monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Greedy traces, of which a few positions are enough to fit."""
    monkeypatch.setattr(sharpness_fit, "FEWEST", 20)
    return recorded("llama")


def test_without_a_factor_trees_are_the_recorded_ones(run: Recorded) -> None:
    for generation in run.traces.generations[:2]:
        again = greedy_scores.drafted(run.decoder, generation, [1.0], DEPTH)
        for name in ("candidates", "scores", "path", "ranks"):
            np.testing.assert_array_equal(getattr(again, name), getattr(generation, name))
        assert (again.task, again.question_id, again.turn) == (generation.task, generation.question_id, generation.turn)


def test_a_factor_multiplies_what_is_between_siblings(run: Recorded) -> None:
    generation = run.traces.generations[0]
    sharp = greedy_scores.drafted(run.decoder, generation, [2.0, 0.5], DEPTH)
    width = generation.width
    assert (sharp.candidates[:, :width] == generation.candidates[:, :width]).all()
    np.testing.assert_allclose(
        np.diff(sharp.scores[:, :width]), 2.0 * np.diff(generation.scores[:, :width]), rtol=1e-3, atol=1e-4
    )
    # Below the likeliest root's child, which is the first beam row with either factor, and in all deeper levels alike.
    first = slice(candidate_count(width, 0), candidate_count(width, 0) + width)
    np.testing.assert_allclose(
        np.diff(sharp.scores[:, first]), 0.5 * np.diff(generation.scores[:, first]), rtol=1e-3, atol=1e-4
    )


def test_each_half_has_the_factors_of_the_other(run: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = greedy_scores.Halves(run.traces.generations)
    keys = [{(each.task, each.question_id) for each in halves.half(number)} for number in range(2)]
    assert not keys[0] & keys[1] and sum(map(len, keys)) == 4
    asked: list[tuple[tuple[str, str], list[float]]] = []
    drafted = greedy_scores.drafted

    def noting(decoder, generation, factors, depth):
        asked.append(((generation.task, generation.question_id), list(factors)))
        return drafted(decoder, generation, factors, depth)

    monkeypatch.setattr(greedy_scores, "drafted", noting)
    results = greedy_scores.compare(run.decoder, run.traces.generations, DEPTH)
    wanted = [see(run.decoder, halves.half(number), DEPTH).best() for number in range(2)]
    assert results["factors"] == wanted and wanted[0] != wanted[1]
    fitted = [(key, factors) for key, factors in asked if factors != [1.0]]
    assert fitted and all(factors == wanted[0 if key in keys[1] else 1] for key, factors in fitted)


def test_it_runs_from_end_to_end(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--target", str(run.config.target), "--draft", str(run.config.draft), "--dtype", "float32"]
    assert greedy_scores.main(["--traces", str(run.config.out), "--out", str(tmp_path), *models]) == 0
    printed = capsys.readouterr().out
    assert "| half 1 |" in printed and "| 0, level 3 |" in printed and "τ with fitted factors" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found["temperatures"]) == ["0"] and len(found["factors"]) == 2


def test_what_cannot_be_fitted_is_refused(
    recorded: Callable[..., Recorded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded("llama")
    out = ["--out", str(tmp_path)]
    assert greedy_scores.main(["--traces", str(run.config.out), *out, "--depth", "3"]) == 2
    assert "trees of depth 4 are replayed" in capsys.readouterr().err
    one = [each for each in run.traces.generations if each.task == "first" and each.question_id == "7"]
    with pytest.raises(greedy_scores.InputError, match="greedy answers to two questions or more are needed"):
        greedy_scores.compare(run.decoder, one, DEPTH)
