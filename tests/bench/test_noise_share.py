"""The share of sampling in a cycle: what is counted, and from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
import noise_share
from ltd.decoding.prefill import prefill
from ltd.decoding.request import Request
from ltd.decoding.statistics import PARTS, Statistics

Folder = Callable[[str], Path]


def statistics(seconds: float, gains: list[int], depth: int) -> Statistics:
    """Of an answer whose parts took so many seconds each."""
    new = 1 + sum(gains)
    made = Statistics(5, new, 1, dict.fromkeys(PARTS, seconds))
    made.gains, made.depths, made.sizes = gains, [depth] * len(gains), [4] * len(gains)
    return made


def test_shares_are_those_of_all_answers() -> None:
    drawn = noise_share.Way("static:1:4", 1.0, None)  # type: ignore[arg-type]
    drawn.runs = [statistics(1.0, [2, 2], 1), statistics(2.0, [1, 1, 3], 1)]
    found = drawn.to_dict(place=0.1)
    whole = (len(PARTS) - 1) * 3.0
    made = 0.1 * ((5 - 2 + 2) + (6 - 3 + 2))
    assert found["cycles"] == 5 and found["tau"] == pytest.approx(9 / 5)
    assert found["cycle_milliseconds"] == pytest.approx(1e3 * whole / 5)
    assert found["milliseconds"]["accept"] == pytest.approx(600) and "prefill" not in found["milliseconds"]
    assert found["noise_share"] == pytest.approx(made / whole, abs=1e-5)
    assert found["noise_and_accept_share"] == pytest.approx((3.0 + made) / whole, abs=1e-5)
    plain = noise_share.Way("none", 1.0, None, drawn.runs).to_dict(place=0.1)  # type: ignore[arg-type]
    assert plain["noise_and_accept_share"] == pytest.approx(3.0 / whole, abs=1e-5)  # noise is part of accepting
    greedy = noise_share.Way("static:1:4", 0.0, None, drawn.runs).to_dict(place=0.1)  # type: ignore[arg-type]
    assert greedy["noise_share"] == 0.0


@pytest.mark.parametrize("policy", ["none", ltd.Static(0, 3), ltd.Static(2, 6)], ids=str)
def test_places_are_those_whose_noise_was_made(
    policy: Any, tiny_target: Folder, tiny_head: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to one more, that of a leaf in the last tree; looked up in the noise that a request keeps."""
    seen: set[int] = set()
    decoder = ltd.load(str(tiny_target("llama")), str(tiny_head("llama")), policy="static", device="cpu")

    def looking(step: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*given: Any) -> Any:
            gain = step(*given)
            request = next(each for each in given if isinstance(each, Request))
            seen.update(place for place in request.noise.places[0].tolist() if place >= 0)
            return gain

        return looked

    monkeypatch.setattr("ltd.decoding.decoder.prefill", looking(prefill))
    monkeypatch.setattr(decoder, "verify", looking(decoder.verify))
    answer = decoder.generate([5, 6, 7], max_new_tokens=20, temperature=1.0, seed=3, policy=policy)
    assert not isinstance(answer, list)
    assert 0 <= len(seen) - noise_share.places(answer.statistics) <= 1


def test_it_runs_from_end_to_end(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--target", str(tiny_target("llama")), "--draft", str(tiny_head("llama")), "--dtype", "float32"]
    few = ["--tokens", "6", "--repeats", "1", "--trees", "1:3", "--threads", str(torch.get_num_threads())]
    assert noise_share.main(["--out", str(tmp_path), *models, *few]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(way["method"], way["temperature"]) for way in found["ways"]] == [
        ("none", 0.0),
        ("none", 1.0),
        ("static:1:3", 0.0),
        ("static:1:3", 1.0),
        ("static:1:3:sampler=rejection", 1.0),
    ]
    assert all(0 <= way["noise_share"] <= 1 and way["cycles"] > 0 for way in found["ways"])
    assert found["place_noise_microseconds"] > 0
    assert "| static:1:3:sampler=rejection, temperature 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "0"], "--temperature is 0; sampling needs one above 0"),
        (["--tokens", "0"], "--tokens is 0; it must be at least 1"),
        (["--repeats", "0"], "--repeats is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert noise_share.main(["--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
