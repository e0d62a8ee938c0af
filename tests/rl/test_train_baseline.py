"""Training of the baselines: toy problems are learned, a stopped run goes on, wrong input is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_traces import made_generations, made_latency
from safetensors.torch import load_file, save_file

from ltd.cli import main
from ltd.common.journal import Journal
from ltd.drafts.opening import find_head, head_hash
from ltd.errors import InputError
from ltd.policies import Static
from ltd.policies.baselines.files import load_baseline, network_of
from ltd.policies.grid import load_grid
from ltd_rl.baselines.classifier_fit import FitConfig, Labelled, area_under_curve, fit, measure
from ltd_rl.baselines.train import BaselineConfig, train_baseline
from ltd_rl.traces.format import save_shard
from ltd_rl.traces.outcomes import outcomes_of, total

STATE = 12


def toy(seed: int, count: int = 600) -> Labelled:
    """Accepted where the first number is high; a quarter of them."""
    features = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
    return Labelled(features, features[:, 0] > 0.75)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return network_of("disco", {"inputs": 3, "hidden": 16})


def test_a_toy_problem_is_learned_and_the_best_epoch_kept(tmp_path: Path) -> None:
    made, config = network(), FitConfig(epochs=30, learning_rate=1e-2)
    scores = fit(made, toy(0), toy(1), config, tmp_path / "c.pt")
    assert measure(made, toy(1)) == min(scores, key=lambda score: score.loss)
    assert scores[-1].auc > 0.99 > scores[0].accuracy and min(score.loss for score in scores) < 0.2


def test_a_stopped_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, stopped, config = network(), network(), FitConfig(epochs=6, learning_rate=1e-2, seed=3)
    scores = fit(whole, toy(0), toy(1), config, tmp_path / "whole.pt")

    def stop(score: object) -> None:
        heard.append(score)
        if len(heard) == 3:
            raise KeyboardInterrupt

    heard: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, toy(0), toy(1), config, tmp_path / "stopped.pt", stop)
    again = network(9)
    assert fit(again, toy(0), toy(1), config, tmp_path / "stopped.pt") == scores and heard == scores[:3]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with pytest.raises(InputError, match="other settings"):
        fit(again, toy(0), toy(1), FitConfig(7), tmp_path / "stopped.pt")
    (tmp_path / "stopped.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="damaged"):
        fit(again, toy(0), toy(1), config, tmp_path / "stopped.pt")


def test_both_classes_count_alike() -> None:
    """Copies of the rarer class change nothing."""
    made, few = network(), toy(2)
    copies = 3
    more = torch.cat([few.features, *[few.features[few.accepted]] * copies])
    many = Labelled(more, torch.cat([few.accepted, torch.ones(len(more) - len(few.features), dtype=torch.bool)]))
    one, other = measure(made, few), measure(made, many)
    assert one.loss == pytest.approx(other.loss, abs=1e-5) and one.accuracy == pytest.approx(other.accuracy, abs=1e-5)
    assert one.auc == pytest.approx(other.auc, abs=1e-6)


def test_area_under_curve_counts_pairs() -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randint(0, 6, (30,), generator=generator).float()
        accepted = torch.rand(30, generator=generator) < 0.4
        accepted[0], accepted[1] = True, False
        yes, no = logits[accepted][:, None], logits[~accepted]
        pairs = ((yes > no).double() + 0.5 * (yes == no).double()).mean()
        assert area_under_curve(logits, accepted) == pytest.approx(float(pairs))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Shards of ten questions in which high probabilities, and states of one side, are accepted."""
    folder, count = tmp_path / "samples", 400
    folder.mkdir()
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        probability, states = torch.rand(count, generator=generator), torch.randn(count, STATE, generator=generator)
        question = (torch.arange(count) % 5 + 5 * number).int()
        shard = {
            "probability": probability,
            "joint": probability.clone(),
            "entropy": 1 - probability,
            "question": question,
        }
        shard |= {"level": (torch.arange(count) % 3).int(), "accepted": probability > 0.5, "states": states.half()}
        shard |= {"state_accepted": states[:, 0] > 0, "state_question": question.clone()}
        save_file(shard, folder / f"{number:05d}.safetensors")
    recorded = {"target": None, "draft_sha256": head_hash(find_head(None)), "tasks": ["mine"], "max_new_tokens": 7}
    Journal(folder / "run.jsonl", recorded, "*.none").__exit__(None, None, None)
    return folder


@pytest.mark.parametrize("kind", ["disco", "c2t", "specdecpp"])
def test_every_kind_is_trained_from_samples(tmp_path: Path, samples: Path, kind: str) -> None:
    config = BaselineConfig(kind, tmp_path / "out", samples=samples, width=32, epochs=40)
    trained = train_baseline(config)
    made = load_baseline(tmp_path / "out", kind)
    assert trained.training == 640 and trained.held_out == 160 and len(trained.scores) == 40
    assert made.validation["auc"] == trained.scores[trained.best].auc > 0.9
    assert made.made_for["head_sha256"] and made.training["epochs"] == 40
    assert made.training["tasks"] == ["mine"] and made.training["max_new_tokens"] == 7
    weights = (tmp_path / "out" / "baseline.safetensors").read_bytes()
    train_baseline(config)
    assert (tmp_path / "out" / "baseline.safetensors").read_bytes() == weights


def test_samples_are_of_their_own_head(tmp_path: Path, samples: Path, tiny_head: Callable[[str], Path]) -> None:
    config = BaselineConfig("disco", tmp_path / "out", samples=samples, draft=str(tiny_head("llama")), epochs=2)
    with pytest.raises(InputError, match=r"are of the head with the hash .*, and not of .*; name theirs with --target"):
        train_baseline(config)
    with pytest.raises(InputError, match=r"are of the target SmolLM2-135M-Instruct, and not of other; name theirs"):
        train_baseline(replace(config, target="some/other", draft=None))
    train_baseline(replace(config, draft=None))
    shard = load_file(samples / "00000.safetensors")
    save_file(shard | {"entropy": 2 * shard["entropy"]}, samples / "00000.safetensors")
    with pytest.raises(InputError, match="holds a run with samples_sha256"):
        train_baseline(replace(config, draft=None))
    (samples / "run.jsonl").unlink()
    with pytest.raises(InputError, match=r"run.jsonl cannot be read: .*; it says whose the files beside it are"):
        train_baseline(replace(config, draft=None))


def test_the_command(tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["train-baseline", "c2t", "--out", str(out), "--samples", str(samples), "--epochs", "2"]) == 0
    assert "AUC" in capsys.readouterr().out and json.loads((out / "baseline.json").read_text())["kind"] == "c2t"


def test_the_grid_holds_what_every_setting_comes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generations, latency, out = made_generations(0, [12, 20]), made_latency(), tmp_path / "out"
    (tmp_path / "traces").mkdir()
    save_shard(tmp_path / "traces" / "00000.safetensors", generations, 3, 3)
    latency.save(tmp_path / "latency.json")
    given = ["--traces", str(tmp_path / "traces"), "--latency", str(tmp_path / "latency.json")]
    assert main(["train-baseline", "grid", "--out", str(out), *given]) == 0
    found = json.loads((out / "grid.json").read_text())
    rates = found["tokens_per_second"]
    assert [len(row) for row in rates] == [len(found["sizes"])] * 4 and found["sizes"][0] == 1
    for depth, step in ((0, 0), (2, 5), (3, len(found["sizes"]) - 1)):
        alone = outcomes_of(generations, latency, [found["sizes"][step]], depth)
        assert rates[depth][step] == pytest.approx(total(alone, depth, 0).throughput, rel=1e-5)
    assert rates[found["depth"]][found["sizes"].index(found["size"])] == max(map(max, rates))
    policy = load_grid(out / "grid.json")
    assert policy == Static(found["depth"], found["size"], width=3)  # the traces'
    assert f"depth {found['depth']}, size {found['size']}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["disco", "--samples", "SAMPLES", "--traces", "x"], "disco makes no use of --traces"),
        (["grid", "--samples", "SAMPLES"], "grid makes no use of --samples"),
        (["rules", "--samples", "SAMPLES"], "rules makes no use of --samples"),
        (["rules", "--latency", "nowhere.json"], "nowhere.json"),
        (["grid", "--networks", "x"], "grid makes no use of --networks"),
        (["disco", "--samples", "nowhere"], "there are no samples"),
        (["other"], "other"),
        (["disco", "--tasks", "gsm8k"], "give --data-dir"),
        (["disco", "--data-dir", "nowhere"], "there is no data folder"),
        (["grid", "--latency", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_input(
    tmp_path: Path, samples: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(samples) if argument == "SAMPLES" else argument for argument in arguments]
    assert main(["train-baseline", *given, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="of 4 samples 0 are accepted"):
        Labelled(torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool))
