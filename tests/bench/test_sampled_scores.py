"""The comparison of sampled trees' scores runs from end to end, and its numbers are those of the traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from recordings import Recorded

import sampled_scores
from ltd.common.shards import shard_file
from ltd_rl.traces.calibration import calibration
from ltd_rl.traces.format import save_shard
from ltd_rl.traces.replay import replay


def test_it_runs_from_end_to_end(
    recorded: Callable[..., Recorded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = recorded("llama", at=(0.6, 1.0))
    halved = [replace(each, scores=each.scores / 2) for each in run.traces.generations]
    save_shard(shard_file(tmp_path, 0), halved, run.traces.width, run.traces.depth)
    out = tmp_path / "out"
    assert sampled_scores.main(["--before", str(run.config.out), "--after", str(tmp_path), "--out", str(out)]) == 0
    assert "| 0.6, level 0 |" in capsys.readouterr().out
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "results.json").read_text())
    assert list(found) == ["0.6", "1"]
    hot = [each for each in run.traces.generations if each.sampling.temperature == 1.0]
    assert found["1"]["before"]["levels"]["2"] == calibration(hot, 2).to_dict()
    gains = [gain for each in hot for gain in replay(each, (1, 4)).gains.tolist()]
    assert found["1"]["before"]["tau"]["(1, 4)"] == pytest.approx(sum(gains) / len(gains), abs=1e-4)
    milder = [each for each in halved if each.sampling.temperature == 1.0]
    assert found["1"]["after"]["levels"]["0"] == calibration(milder, 0).to_dict()


def test_other_texts_are_refused(
    recorded: Callable[..., Recorded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = recorded("llama", at=(0.6, 1.0)).config.out, recorded("llama").config.out
    assert sampled_scores.main(["--before", str(before), "--after", str(after), "--out", str(tmp_path)]) == 2
    assert "the two folders hold different texts; record both with the same settings" in capsys.readouterr().err
