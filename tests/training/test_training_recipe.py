"""The recipe around the loss: where a head starts, averaged weights, plans by time, live features, what is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from ltd.cli.app import app
from ltd.common.assets import shipped_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.errors import InputError
from ltd.training import TrainDraftConfig, train_draft
from ltd.training import loop as training_loop
from ltd.training.config import FORMER
from ltd.training.data.batches import Batch
from ltd.training.distillation import covered_mass
from ltd.training.eagle3.start import StateScales, new_head
from ltd.training.eagle3.trials import HeadTrials, Trial, faster
from ltd.training.plan import SHARE_FOR_MEASURING, fitting_plan, read_plan
from ltd.training.vocabulary import choose_vocabulary
from ltd.training.weight_average import AVERAGE_EVERY, WeightAverage

Target = Callable[[str], Path]
WORDS = 40


def small_run(out: Path, target: Path, **changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {
        "tokens": 900, "length": 90, "user_length": 12, "answer_length": 30, "rows": 8, "held_out_share": 0.3,
        "draft_vocab_size": 48, "ttt_steps": 2, "batch": 4, "epochs": 6, "learning_rate": 3e-3, "dtype": "float32",
        "seed": 5, "trim_vocabulary": False, "mix": "chat=1",
    }  # fmt: skip
    return TrainDraftConfig(out=out, target=str(target), **{**values, **changes})


# --- the shipped head ------------------------------------------------------------------------------------------------


def test_the_shipped_heads_command_is_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last command there that makes `runs/shipped` asks for just what the shipped head's report says."""
    docs = Path(__file__).parents[2] / "docs" / "training.md"
    line = [line for line in docs.read_text().splitlines() if line.startswith("ltd train-draft --out runs/shipped")][-1]
    asked: list[TrainDraftConfig] = []

    def run(config: TrainDraftConfig, crew: object) -> Path:
        asked.append(config)
        return Path("x")

    monkeypatch.setattr("ltd.training.train_draft", run)
    assert CliRunner().invoke(app, line.split()[1:]).exit_code == 0
    report = json.loads((shipped_head() / "training.json").read_text())
    assert not {"target", "out"} & report["choices"].keys()
    asked[0].check_same({"target": None, "start_from": asked[0].start_from, **report["choices"]})
    assert (asked[0].start_from is None) == ("started_from" not in report)
    changed = {"target": None, "start_from": asked[0].start_from, **report["choices"], "seed": 77}
    with pytest.raises(InputError, match="started with seed = 77"):
        asked[0].check_same(changed)


def test_folders_without_the_younger_settings_are_known() -> None:
    stored = TrainDraftConfig(out="x", **FORMER).to_dict()
    for name in FORMER:
        del stored[name]
    TrainDraftConfig(out="x", **FORMER).check_same(stored)
    for name in FORMER:
        others = {other: value for other, value in FORMER.items() if other != name}
        with pytest.raises(InputError, match=f"started with {name} = "):
            TrainDraftConfig(out="x", **others).check_same(stored)


# --- where a head starts ---------------------------------------------------------------------------------------------


def attend_causally(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2)


@pytest.fixture(scope="module")
def target(tiny_target: Target) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    return model


def head_for(target: PreTrainedModel, scales: StateScales, **flags: bool) -> Eagle3Head:
    config = Eagle3Config.for_target(target.config, draft_vocab_size=WORDS, **flags)
    vocabulary = choose_vocabulary(torch.arange(WORDS), config.vocab_size, WORDS)
    return new_head(config, target, vocabulary, from_target=True, seed=1, scales=scales)


def sized(x: Tensor, size: float) -> Tensor:
    """Rows of this root mean square."""
    return x * size / x.square().mean(-1, keepdim=True).sqrt()


def logits_of(head: Eagle3Head, features: Tensor, embeddings: Tensor) -> Tensor:
    positions = torch.arange(features.size(1))[None]
    states = head(embeddings, head.fuse(features), positions, attend_causally)
    with torch.no_grad():
        return head.logits(states)


@pytest.mark.parametrize("fc_norm", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_head_of_normed_states_starts_as_one_of_plain_states(
    target: PreTrainedModel, fc_norm: bool, spread: float
) -> None:
    """The first step says the same: exactly so where the target's final norm weighs all directions alike."""
    torch.manual_seed(2)
    with torch.no_grad():
        target.model.norm.weight.copy_(2.5 + spread * (torch.rand(32) - 0.5))
    sizes = (0.7, 1.5, 6.0)
    features = torch.cat([sized(torch.randn(1, 9, 32), size) for size in sizes], -1)
    embeddings = torch.randn(1, 9, 32)
    scales = StateScales(sizes, 2.5)
    plain = logits_of(head_for(target, scales), features, embeddings)
    normed = logits_of(head_for(target, scales, norm_output=True, fc_norm=fc_norm), features, embeddings)
    if spread:
        similar = functional.cosine_similarity(plain.flatten(), normed.flatten(), dim=0)
        assert similar > 0.97
    else:
        torch.testing.assert_close(normed, plain, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        target.model.norm.weight.fill_(1.0)


def test_sizes_of_states_leave_out_the_padding() -> None:
    torch.manual_seed(3)
    final, features = sized(torch.randn(6, 8), 3.0), torch.cat([sized(torch.randn(6, 8), s) for s in (0.5, 7.0)], -1)
    padded = [functional.pad(x, (0, 0, 0, 4)) for x in (final, features)]
    batch = Batch(torch.zeros(10), torch.ones(10), padded[1], padded[0], torch.zeros(10), [10])
    scales = StateScales.of(batch, 2)
    assert scales.final == pytest.approx(3.0)
    assert scales.features == pytest.approx((0.5, 7.0))


# --- the loss's weights ----------------------------------------------------------------------------------------------


def test_covered_mass_is_the_share_of_the_softmax() -> None:
    torch.manual_seed(4)
    logits = 3 * torch.randn(20, 50)
    mass = covered_mass(logits[:, :17], logits.logsumexp(-1))
    torch.testing.assert_close(mass, logits.softmax(-1)[:, :17].sum(-1))
    assert covered_mass(logits.bfloat16(), logits.logsumexp(-1)).max() <= 1


# --- averaged weights ------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(steps=st.integers(1, 60), updates=st.floats(1, 500), seed=st.integers(0, 99))
def test_average_is_the_moving_one(steps: int, updates: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, generator=generator), torch.randn(2, 2, generator=generator)]
    average = WeightAverage(weights, updates)
    keep, expected = max(0.0, 1 - AVERAGE_EVERY / max(AVERAGE_EVERY, updates)), [w.double().clone() for w in weights]
    for step in range(1, steps + 1):
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator))
        average.add()
        part = min(keep, (step - 1) / (step + 9))
        expected = [part * old + (1 - part) * new.double() for old, new in zip(expected, weights, strict=True)]
    for value, wanted in zip(average.values, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=1e-4, atol=1e-5)


def test_average_takes_the_weights_place_for_a_while() -> None:
    weights = [torch.tensor([1.0, 2.0])]
    average = WeightAverage(weights, 100)
    weights[0] += 1
    with average.in_place():
        assert weights[0].tolist() == [1, 2]
    assert weights[0].tolist() == [2, 3]
    other = WeightAverage([torch.zeros(2)], 100)
    other.load_state({**average.state(), "count": 3})
    assert other.values[0].tolist() == [1, 2] and other.count == 3


# --- what is chosen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        (((1.5, 100), (1.6, 90)), 0),
        (((1.5, 90), (1.4, 100)), 1),
        (((1.5, 100), (1.6, 99)), 1),
        (((1.6, 99), (1.5, 100)), 0),
    ],
)
def test_the_faster_head_is_chosen_and_among_equals_the_longer(
    trials: tuple[tuple[float, float], ...], chosen: int
) -> None:
    assert faster([Trial(9, tau, speed) for tau, speed in trials]) == chosen


@pytest.mark.parametrize("better", ["last", "averaged"])
def test_the_chosen_weights_are_written(
    better: str, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"last": [200.0, 100.0], "averaged": [100.0, 200.0]}[better]
    monkeypatch.setattr(HeadTrials, "compare", lambda *_: [Trial(48, 1.5, speed) for speed in speeds])
    config = small_run(tmp_path / "out", tiny_target("llama"), average_share=0.9)
    written = load_file(train_draft(config) / "model.safetensors")
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    names = [name for name in state["head"] if name not in ("d2t", "t2d")]
    averaged = dict(zip(names, state["average"]["values"], strict=True))
    wanted, other = (averaged, state["head"]) if better == "averaged" else (state["head"], averaged)
    for name in names:
        torch.testing.assert_close(written[name].float(), wanted[name], rtol=1e-2, atol=1e-3)
    assert any((written[name].float() - other[name]).abs().max() > 5e-3 for name in names)
    assert json.loads((tmp_path / "out" / "head" / "training.json").read_text())["weights"]["chosen"] == better


def test_without_an_average_the_last_weights_are_written(tiny_target: Target, tmp_path: Path) -> None:
    folder = train_draft(small_run(tmp_path / "out", tiny_target("llama"), average_share=0.0, epochs=1))
    assert "weights" not in json.loads((folder / "training.json").read_text())


# --- features --------------------------------------------------------------------------------------------------------


def test_live_features_train_the_same_head(tiny_target: Target, tmp_path: Path) -> None:
    folders = [
        train_draft(small_run(tmp_path / name, tiny_target("llama"), features=name, epochs=2, average_share=0.0))
        for name in ("cached", "live")
    ]
    assert (tmp_path / "cached" / "features").exists() and not (tmp_path / "live" / "features").exists()
    cached, live = (load_file(folder / "model.safetensors") for folder in folders)
    for name, weight in cached.items():
        assert torch.equal(weight, live[name]), name


# --- plans -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    hours=st.floats(0.01, 100), writing=st.floats(1e-5, 1e-2), training=st.floats(1e-5, 1e-2), epochs=st.integers(1, 5),
    most=st.none() | st.integers(1, 10**7), least=st.integers(0, 10**4),
)  # fmt: skip
def test_a_plan_takes_its_time(
    hours: float, writing: float, training: float, epochs: int, most: int | None, least: int
) -> None:
    config = TrainDraftConfig(out="x", hours=hours, epochs=epochs)
    plan = fitting_plan(config, writing, training, most, least)
    each = writing + training * epochs / (1 - SHARE_FOR_MEASURING)
    assert sum(plan.hours) == pytest.approx(plan.tokens * each / 3600)
    if plan.tokens > max(least, 1):
        slack = each / 3600
        assert sum(plan.hours) <= hours * 1.0001
        assert sum(plan.hours) + slack >= hours * 0.9999 if plan.bound == "time" else plan.tokens == most
    assert f"about {sum(plan.hours):.1f} hours" in str(plan)


def test_a_run_by_time_keeps_its_plan(
    tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_run(tmp_path / "out", tiny_target("llama"), tokens=None, hours=0.0006, epochs=1)
    run_training = training_loop.run_training

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltd.training.train.run_training", killed)
    with pytest.raises(KeyboardInterrupt):
        train_draft(config)
    plan = read_plan(tmp_path / "out")
    assert plan is not None and plan.bound == "time"
    assert min(plan.writing, plan.training) > 0
    assert "this will take about 0.0 hours" in capsys.readouterr().err
    shards = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "data").iterdir()}
    monkeypatch.setattr("ltd.training.train.run_training", run_training)
    report = json.loads((train_draft(config) / "training.json").read_text())
    assert read_plan(tmp_path / "out") == plan
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "data").iterdir()} == shards
    assert report["data"]["asked_tokens"] == plan.tokens
    counted = report["data"]["training"]["tokens"] + report["data"]["held_out"]["tokens"]
    assert counted >= 0.5 * plan.tokens  # questions that came twice are learned once


def test_a_plan_is_bound_by_the_space_for_features(tiny_target: Target, tmp_path: Path) -> None:
    config = small_run(tmp_path / "out", tiny_target("llama"), tokens=None, hours=5.0, epochs=1, cache_gigabytes=4e-4)
    report = json.loads((train_draft(config) / "training.json").read_text())
    plan = read_plan(tmp_path / "out")
    assert plan is not None and plan.bound == "space"
    assert report["data"]["asked_tokens"] == plan.tokens == int(4e-4 * 1e9 / (32 * 4 * 2 + 8))
