"""Planted models: their text is the known one, with and without trees, and the gain of a cycle is what was dialled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import planted
from ltd.errors import InputError
from ltd.policies import Static
from planted_models import SHAPES, Plan, Planted, chance_for, plant, plant_target

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--tau", "40"), "tau is 40"), (("--device", "cuda"), "device"), (("--dtype", "x"), "dtype")],
)
def test_what_cannot_be_is_one_sentence(arguments: tuple[str, str], words: str, capsys: pytest.CaptureFixture) -> None:
    if arguments[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert planted.main(["--shape", "tiny-llama", *arguments]) == 2
    assert words in capsys.readouterr().err
