"""Planted models: their text is the known one, with and without trees, and the gain of a cycle is what was dialled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from tape import Tape

import planted
import recorded_cycles
from ltd.decoding.workspace import Workspace
from ltd.engine.captures import CaptureReport, Plain
from ltd.errors import InputError
from ltd.policies import Both, Static
from ltd.target.target import Target
from planted_models import SHAPES, Plan, Planted, chance_for, plant, plant_target
from recorded_cycles import Kind
from watched_captures import WatchedCaptures

CPU = torch.device("cpu")
TINY = ("tiny-llama", "tiny-qwen3")


def make(shape: str = "tiny-llama", depth: int = 4, tau: float = 3.0, dtype: torch.dtype = torch.float32) -> Planted:
    return plant(shape, depth, tau, dtype, CPU)


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_text_is_the_known_one(shape: str, dtype: torch.dtype) -> None:
    model = make(shape, dtype=dtype)
    prompt = model.plan.prompt(20, seed=1)
    known = model.plan.text(prompt[-1], 60)
    assert len(set(known)) == 60
    for policy in ("none", Static(4, 20), Static(0, 3)):
        assert model.decoder.generate(prompt, max_new_tokens=60, policy=policy).token_ids == known


@pytest.mark.parametrize("shape", TINY)
def test_transformers_writes_it_too(shape: str) -> None:
    sizes = SHAPES[shape]
    plan = Plan.draw(sizes.config.vocab_size, sizes.draft_vocab_size, seed=5)
    model = plant_target(sizes, plan, torch.float32, CPU, seed=6)
    prompt = plan.prompt(20, seed=1)
    text = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0, 20:]
    assert text.tolist() == plan.text(prompt[-1], 40)


@pytest.mark.parametrize(("depth", "tau"), [(4, 3.0), (8, 5.5), (2, 1.0), (3, 5.0)])
def test_the_gain_is_dialled(depth: int, tau: float) -> None:
    model = make(depth=depth, tau=tau)
    gains: list[int] = []
    for seed in range(3):
        prompt = model.plan.prompt(8, seed)
        gains += model.decoder.generate(prompt, max_new_tokens=160, policy=Static(depth, 40)).statistics.gains[:-1]
    # Of so many cycles of a geometric kind, five deviations of their mean.
    deviation = torch.tensor(gains).double().std() / len(gains) ** 0.5
    assert abs(sum(gains) / len(gains) - tau) <= max(5 * deviation, 1e-9)


def test_a_script_that_is_always_right_gains_all_levels_and_one_that_never_is_gains_one() -> None:
    assert chance_for(6, 4) == 1.0 and chance_for(1, 4) < 1e-9
    for tau, most in ((0.9, 6), (6.1, 6)):
        with pytest.raises(InputError, match=f"at depth 4 a cycle gains 1 to {most} tokens"):
            chance_for(tau, 4)


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(InputError, match="no shape 'llama-9b'; choose from llama-1b, llama-8b"):
        plant("llama-9b", 4, 3.0, torch.float32, CPU)


def test_the_command_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "planted.json"
    shape = ("--shape", "tiny-llama", "--depth", "3", "--size", "12", "--tau", "2.5", "--dtype", "float32")
    sizes = ("--prompt", "16", "--tokens", "24", "--rounds", "2", "--threads", "1")
    assert planted.main([*shape, *sizes, "--out", str(file)]) == 0
    shown, content = capsys.readouterr().out, json.loads(file.read_text())
    assert "all texts are the known one" in shown and content["lossless"]
    plain, trees = content["ways"]["plain"], content["ways"]["trees"]
    assert plain["acceptance_length"] == 1 and len(trees["tokens_per_second"]) == 2
    assert {"draft", "verify", "accept"} <= set(trees["parts"])
    assert trees["ms_per_cycle"] == pytest.approx(sum(trees["parts"].values()))
    assert content["weight_gigabytes"] > 0


def test_a_wrong_text_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    right = Plan.text
    monkeypatch.setattr(Plan, "text", lambda *arguments: [*right(*arguments)[:-1], 0])
    options = ("--shape", "tiny-llama", "--depth", "2", "--size", "4", "--tau", "2", "--prompt", "8", "--tokens", "9")
    assert planted.main([*options, "--rounds", "1", "--dtype", "float32"]) == 1
    assert "NOT the known text: plain, from token 8" in capsys.readouterr().out


@dataclass
class Recordings(Plain):
    """What says what it has recorded, as `CudaGraphs` does."""

    report: CaptureReport
    records: bool = True


def watched(*reports: CaptureReport | None, replays: bool = True) -> WatchedCaptures:
    """A target's recordings, these; of each one part is recorded, and replayed or not."""
    made = iter([Plain() if report is None else Recordings(report) for report in reports])
    target = SimpleNamespace(captures=lambda: next(made))
    captures = WatchedCaptures(cast("Target", target))
    for _ in reports:
        new = target.captures()
        new.record("part", lambda: None)
        if replays:
            new.run("part", lambda: None)
    return captures


def test_a_gpu_that_records_nothing_is_told() -> None:
    good, bad = CaptureReport(3, 0.5, 100), CaptureReport(0, 0.1, 0, "operation not permitted")
    assert watched(good, good).fault() is None
    assert watched(good, bad).fault() == "a part of a cycle could not be captured: operation not permitted"
    for reports in ((), (None,), (good, None), (good, CaptureReport())):
        assert watched(*reports).fault() == "no CUDA graph was captured for some of the requests"
    (report,) = watched(None, good).reports()
    assert report == {"graphs": 3, "seconds": 0.5, "bytes": 100, "failure": None, "replays": 1, "missed": {}}


def test_a_gpu_that_does_not_replay_what_it_recorded_is_told() -> None:
    good = CaptureReport(3, 0.5, 100)
    unused = watched(good, good, replays=False)
    assert unused.fault() == "the CUDA graphs of some of the requests were never replayed"
    used = watched(good, good)
    for part in ("verify", 24), ("verify", 24), "walk":
        used.made[1].run(part, lambda: None)
    assert used.reports()[1]["missed"] == {"('verify', 24)": 2, "walk": 1} and used.reports()[0]["missed"] == {}
    assert used.fault() == (
        "parts of cycles were called, as they are not recorded under these names: ('verify', 24), walk"
    )
    forgotten = watched(good)
    forgotten.made[0].forget()  # as where a batch is cut down
    forgotten.made[0].run("part", lambda: None)
    assert forgotten.fault() is None


def test_a_text_without_recordings_is_not_enough_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    results = planted.measure
    monkeypatch.setattr(planted, "measure", lambda options: results(options) | {"capture_fault": "there is none"})
    options = ("--shape", "tiny-llama", "--depth", "2", "--size", "4", "--tau", "2", "--prompt", "8", "--tokens", "9")
    assert planted.main([*options, "--rounds", "1", "--dtype", "float32"]) == 1
    assert "NOT recorded: there is none" in capsys.readouterr().out


@pytest.mark.parametrize("misses", [False, True])
def test_whatever_runs_was_recorded(monkeypatch: pytest.MonkeyPatch, misses: bool) -> None:
    """Of every kind of request, so that a GPU has no fault; or the walk, where cycles ask for it by another name."""
    if misses:
        recorded, names = Workspace.walk_part, count()
        monkeypatch.setattr(Workspace, "walk_part", lambda *arguments: (*recorded(*arguments), next(names)))
    model = make()
    monkeypatch.setattr(model.decoder.target, "captures", Tape)
    captures = WatchedCaptures(model.decoder.target)
    for kind in [SOME_KINDS[0]] if misses else SOME_KINDS:
        recorded_cycles.answers(model, kind)
    assert all(made.replays > 0 for made in captures.made)
    assert {part[0] for made in captures.made for part in made.missed} == ({"walk"} if misses else set())


SOME_KINDS = [
    Kind(Static(4, 20), 0.0, 1),
    Kind(Both(4, 12, 8), recorded_cycles.WARM, 1),
    Kind(recorded_cycles.learned_policy(10), 0.0, 3),
]


def test_recorded_cycles_are_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(recorded_cycles, "all_kinds", lambda *_: SOME_KINDS)
    monkeypatch.setattr(Target, "captures", lambda _: Tape())
    assert recorded_cycles.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines] == ["equal"] * 3


def test_a_replay_that_writes_other_tokens_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    right, calls = recorded_cycles.answers, count(1)

    def last_is_wrong(model: Planted, kind: Kind) -> list[list[int]]:
        """In the second answer of the decoder that records."""
        tokens = right(model, kind)
        return tokens if next(calls) < 3 else [[*tokens[0][:-1], -1]]

    monkeypatch.setattr(recorded_cycles, "all_kinds", lambda *_: SOME_KINDS[:1])
    monkeypatch.setattr(recorded_cycles, "answers", last_is_wrong)
    assert recorded_cycles.main([]) == 1
    assert "static, depth 4, size 20, greedy, batch 1: another text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--tau", "40"), "tau is 40"), (("--device", "cuda"), "device"), (("--dtype", "x"), "dtype")],
)
def test_what_cannot_be_is_one_sentence(arguments: tuple[str, str], words: str, capsys: pytest.CaptureFixture) -> None:
    if arguments[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert planted.main(["--shape", "tiny-llama", *arguments]) == 2
    assert words in capsys.readouterr().err
