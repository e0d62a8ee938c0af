"""Every command that keeps its work in a folder has it for itself, and asks for no more threads than there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
from ltd.common.journal import Journal
from ltd.common.lock import only_run
from ltd.common.threads import check_threads, set_threads, usable_cores
from ltd.errors import InputError
from ltd.evaluation.check import CheckConfig, check
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.run_config import RunConfig
from ltd.training.acceptance.config import AcceptanceConfig
from ltd.training.config import TrainDraftConfig
from ltd.training.train import train_draft

pytest.importorskip("stable_baselines3")

from recordings import QUESTIONS

from ltd_rl.baselines.samples import SampleConfig, record_samples
from ltd_rl.baselines.train import BaselineConfig, train_baseline
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.trainers.iterate import iterate
from ltd_rl.tuning.config import TuneConfig

Start = Callable[[dict[str, Any], Path], object]


def must_not_load(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model should have been loaded")


@pytest.fixture
def settings(data: Path, tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> dict[str, Any]:
    """What all runs over questions have in common."""
    return {
        "data_dir": data,
        "tasks": tuple(QUESTIONS),
        "target": str(tiny_target("llama")),
        "draft": str(tiny_head("llama")),
        "dtype": "float32",
    }


FOLDERS: dict[str, tuple[Start, str]] = {
    "eval": (lambda s, out: evaluate(EvalConfig(out=out, **s), must_not_load), "samples.jsonl"),
    "check": (lambda s, out: check(CheckConfig(out=out / "check.json", **s), must_not_load), "check.jsonl"),
    "record": (lambda s, out: record(RecordConfig(out=out, **s), must_not_load), "run.jsonl"),
    "samples": (lambda s, out: record_samples(SampleConfig(out=out, **s), must_not_load), "run.jsonl"),
    "train-baseline": (lambda s, out: train_baseline(BaselineConfig("c2t", out=out, **s), must_not_load), "work"),
    "train-draft": (lambda s, out: train_draft(TrainDraftConfig(target=s["target"], out=str(out))), ""),
    "iterate": (lambda s, out: iterate(None, out), ""),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_second_run_in_the_same_folder_is_told_before_a_model_loads(
    settings: dict[str, Any], tmp_path: Path, command: str
) -> None:
    start, place = FOLDERS[command]
    held = tmp_path / "out" / place
    with only_run(held) if not place.endswith("jsonl") else Journal(held, {}):
        before = sorted(held.parent.rglob("*"))
        with pytest.raises(InputError, match=f"another run is at work in {held}"):
            start(settings, tmp_path / "out")
        assert sorted(held.parent.rglob("*")) == before


# --- threads ---


@pytest.mark.parametrize("threads", [0, -1, usable_cores() + 1, 20_000, 100_000, 2**40, True, 1.0, "2"])
def test_more_threads_than_cores_are_refused(
    settings: dict[str, Any], tmp_path: Path, tiny_target: Callable[[str], Path], threads: Any
) -> None:
    before = torch.get_num_threads()
    asking: list[Callable[[], object]] = [
        lambda: check_threads(threads),
        lambda: set_threads(threads),
        lambda: ltd.load(tiny_target("llama"), "none", dtype="float32", threads=threads),
        lambda: RunConfig(out=tmp_path, threads=threads, **settings),
        lambda: TuneConfig(threads=threads),
        lambda: TrainDraftConfig(target="", out="", threads=threads),
        lambda: AcceptanceConfig(draft="", run="", out="", threads=threads),
    ]
    for ask in asking:
        with pytest.raises(InputError, match=f"threads is {threads!r}, but must be .* from 1 to {usable_cores()}"):
            ask()
    assert torch.get_num_threads() == before


def test_as_many_threads_as_cores_are_set() -> None:
    before = torch.get_num_threads()
    set_threads(usable_cores())
    assert torch.get_num_threads() == usable_cores()
    set_threads(None)
    assert torch.get_num_threads() == usable_cores()
    torch.set_num_threads(before)
