"""The benchmark of beam widths, from end to end on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import beam_width
import ltd

Folder = Callable[[str], Path]


def test_widths_stand_beside_each_other(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, head = str(tiny_target("llama")), str(tiny_head("llama"))
    options = ["--target", target, "--draft", head, "--dtype", "float32", "--tokens", "12", "--repeats", "2"]
    options += ["--widths", "10,3", "--trees", "0:3,2:6", "--prefix", "20", "--threads", "1", "--out", str(tmp_path)]
    assert beam_width.main(options) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [found["width"] for found in results["widths"]] == [10, 3]
    decoder = ltd.load(target, head, policy="static", dtype="float32", device="cpu")
    for found in results["widths"]:
        assert found["expansion"]["median"] > 0
        for (depth, size), tau in zip([(0, 3), (2, 6)], found["tau"].values(), strict=True):
            answers = [
                decoder.generate(
                    decoder.encode(prompt), max_new_tokens=12, policy=ltd.Static(depth, size, found["width"])
                ).statistics
                for prompt in beam_width.PROMPTS
            ]
            cycles = sum(answer.cycles for answer in answers)
            assert tau == pytest.approx(sum(sum(answer.gains) for answer in answers) / cycles)
    shown = capsys.readouterr().out
    assert "| beam width |" in shown and "(2, 6)" in shown
    wide, narrow = results["widths"]
    assert wide["tau"]["(0, 3)"] == narrow["tau"]["(0, 3)"]  # the three likeliest children are the same


def test_bad_options_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert beam_width.main(["--out", str(tmp_path), "--repeats", "1"]) == 2
    assert "--repeats is 1; it must be at least 2" in capsys.readouterr().err
