"""`ltd tune` from a model to policies that are used by default."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltd.cli import main
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation.methods import TreeMethod
from ltd.loading import load
from ltd.policies import Learned, Static
from ltd.policies.learned.bundle import load_bundle
from ltd.policy_choice import setting_of

pytest.importorskip("stable_baselines3")

from toy_outcomes import TINY

from ltd_rl import tune as tuning
from ltd_rl.traces import sources
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.splits import split_generations
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.tune import tune
from ltd_rl.tune_config import TuneConfig

SHORT = PPOConfig(**{**TINY, "total_timesteps": 256, "gamma": 0.9})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "humaneval").mkdir()
    lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(6)]
    (folder / "humaneval" / "question.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> TuneConfig:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return TuneConfig(
        out=tmp_path / "work",
        data_dir=data,
        max_new_tokens=12,
        seconds=0.2,
        questions=1,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
    )


def grid(decoder: Decoder) -> Any:
    """What the method `grid` decides with beside a decoder."""
    return TreeMethod.named("grid").choose(lambda: setting_of(decoder), decoder.target.device).chosen.policy


def must_not_run(*_: Any, **__: Any) -> Any:
    raise AssertionError("this stage was finished before")


def must_not_load(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model should have been loaded")


def test_the_result_is_used_by_default_and_a_rerun_measures_nothing_again(
    config: TuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(config.target, config.draft, dtype="float32")
    assert isinstance(before.policy, Static)
    with pytest.raises(InputError, match="find it with ltd tune"):
        grid(before)
    tuned = tune(config)
    decoder = load(config.target, config.draft, dtype="float32")
    assert isinstance(decoder.policy, Learned)
    assert str(decoder.policy) == str(tuned.policy)
    prompt = decoder.encode("Say 7")
    assert decoder.generate(prompt).token_ids == before.generate(prompt, policy="none").token_ids
    assert config.out is not None
    learned = load_bundle(config.out / "bundle").policy
    generations, _ = split_generations(load_traces(config.out / "traces").generations)
    lengths = [g.prompt_length + position for g in generations for position in range(g.positions)]
    for network in (learned.depth_network, learned.size_network):
        assert network is not None and network.layout.length_range == (min(lengths), max(lengths))
    bundle = load_bundle(tuned.folder)
    assert bundle.reward == "renewal" and bundle.training["trainer"] == "exact"
    assert set(bundle.validation) == set(tuned.names)
    for name, method in tuned.names.items():
        assert bundle.validation[name]["tokens_per_second"] == tuned.scores[method].tokens_per_second
    best = next(name for name in tuned.names if name.startswith("best static"))
    assert f"best static ({', '.join(map(str, bundle.training['best_static']))})" == best
    assert grid(decoder) == Static(*bundle.training["best_static"])
    monkeypatch.setattr(sources, "calibrate", must_not_run)
    again = tune(config)
    assert again.folder == tuned.folder


@pytest.mark.parametrize("learned_is_faster", [True, False])
def test_the_fastest_is_kept(config: TuneConfig, monkeypatch: pytest.MonkeyPatch, learned_is_faster: bool) -> None:
    """The clock is not asked: scores are set so that one of them is the fastest."""
    measured = tuning.scores

    def biased(results: Any) -> Any:
        found = measured(results)
        for method, row in found.items():
            wins = method.startswith("bundle:") == learned_is_faster and method.startswith(("bundle:", "static:"))
            row["mean"] = replace(row["mean"], tokens_per_second=2.0 if wins else 1.0)
        return found

    monkeypatch.setattr(tuning, "scores", biased)
    tuned = tune(config)
    assert tuned.learned == learned_is_faster
    assert (tuned.policy.depth_network is not None) == learned_is_faster
    kept = load_bundle(tuned.folder).policy
    assert (kept.size_network is not None) == learned_is_faster
    assert kept.costs is not None and len(kept.costs.verify) == len(kept.sizes)  # drafting may not lose in either case


def test_ppo_trains_in_the_papers_schedule(config: TuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPOConfig, "paper", classmethod(lambda cls, role, **changes: SHORT))
    tuned = tune(replace(config, trainer="ppo", reward="ratio"))
    assert config.out is not None
    iterations = json.loads((config.out / "ppo" / "iterations.json").read_text())
    assert [entry["iteration"] for entry in iterations] == [0, 1, 2, 3]
    assert load_bundle(config.out / "bundle").training["trainer"] == "ppo"
    assert tuned.folder.exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trainer": "sgd"}, "no trainer 'sgd'"),
        ({"reward": "length"}, "ratio and renewal, not length"),
        ({"reward": "fame", "trainer": "ppo"}, "no reward 'fame'"),
        ({"draft": "none"}, "there must be one"),
        ({"questions": 0}, "questions is 0"),
        ({"seconds": 0.0}, "seconds 0.0 is out of range"),
        ({"data_dir": Path("nowhere")}, "no data folder nowhere"),
        ({"tasks": ("other",)}, "holds these tasks: humaneval"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"limit": 1}, "one question to train on"),
        ({"limit": 1, "data_dir": None}, "one question to train on"),
        ({"tasks": ("qa",), "data_dir": None}, "the tasks qa are in no folder"),
    ],
)
def test_bad_settings_are_told_before_a_model_loads(
    config: TuneConfig, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        tune(replace(config, **changes), must_not_load)


def test_the_command_shows_a_comparison(config: TuneConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"data-dir": config.data_dir, "out": config.out, "max-new-tokens": 12, "seconds": 0.2, "questions": 1,
               "target": config.target, "draft": config.draft, "dtype": "float32"}  # fmt: skip
    assert main(["tune", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]) == 0
    shown = capsys.readouterr()
    for words in ("plain decoding", "learned", "speedup"):
        assert words in shown.out
    for words in ("[1/5]", "[5/5]", "from now on"):
        assert words in shown.err
