"""The recipes for published models: their commands, their numbers, and their pairs at a tiny size."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
import typer
from published_pairs import FEATURES, PAIRS
from small_models import small_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
from ltd.cli.app import app
from ltd.cli.main import main

RECIPES = Path(__file__).parents[2] / "examples" / "models"
each_pair = pytest.mark.parametrize("name", PAIRS)
STEPS = ("fetch", "inspect", "tune", "eval", "serve")
# Stands for a program: remembers how it was called, and makes the folder that `hf download` would fill.
PROGRAM = """#!/bin/sh
printf '%s\\t' "$(basename "$0")" "$@" >> "$CALLS"
echo >> "$CALLS"
[ "$1" != download ] || mkdir -p "$4"
"""


def calls_of(name: str, step: str, place: Path, *options: str) -> list[list[str]]:
    """What a step of a recipe would run."""
    programs, calls = place / "bin", place / "calls"
    programs.mkdir(exist_ok=True)
    for program in ("ltd", "hf", "transformers"):
        (programs / program).write_text(PROGRAM)
        (programs / program).chmod(0o755)
    calls.write_text("")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls)}
    command = ["sh", str(RECIPES / f"{name}.sh"), step, *options]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.rstrip("\t").split("\t") for line in calls.read_text().splitlines()]


def test_every_recipe_has_its_pair_and_is_short() -> None:
    assert {file.stem for file in RECIPES.glob("*.sh")} == {*PAIRS, "recipe"}
    for file in RECIPES.glob("*.sh"):
        assert len(file.read_text().splitlines()) <= 50, file.name


@each_pair
@pytest.mark.parametrize("step", STEPS)
def test_the_commands_are_there(name: str, step: str, tmp_path: Path) -> None:
    called = calls_of(name, step, tmp_path)
    for program, *words in called:
        if program == "ltd":
            command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
            command.make_context(words[0], words[1:])  # raises where an option is unknown, or its value wrong
    said = [word for call in called for word in call]
    work = f"out/models/{name}"
    if step == "fetch":
        assert [call[2] for call in called if call[0] == "hf"] == re.findall(
            r"^(?:model|head)=(\S+)$", (RECIPES / f"{name}.sh").read_text(), flags=re.M
        )
        assert ("--rope-theta" in said) == PAIRS[name].angelslim
        assert (tmp_path / work / "model" / "chat_template.jinja").exists() == (name == "vicuna-13b-v1.3")
    elif step == "inspect":
        assert called == [["ltd", "inspect", f"{work}/head"]]
    elif step == "serve":
        assert called[0][:4] == ["ltd", "export", f"{work}/model", f"{work}/served"]
        assert called[1] == ["transformers", "serve", f"{work}/served", "--trust-remote-code"]
    else:
        assert called[0][:6] == ["ltd", step, "--target", f"{work}/model", "--draft", f"{work}/head"]
        assert calls_of(name, step, tmp_path, "--limit", "3")[0][-2:] == ["--limit", "3"]


def test_a_wrong_step_is_one_sentence(tmp_path: Path) -> None:
    for step in ([], ["bake"]):
        command = ["sh", str(RECIPES / "qwen3-14b.sh"), *step]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.endswith("must be fetch, inspect, tune, eval or serve\n")


@each_pair
def test_the_memory_is_that_of_the_config(name: str) -> None:
    found = re.search(r"([\d.]+) GB of weights and (\d+) kB of keys", (RECIPES / f"{name}.sh").read_text())
    assert found is not None
    pair = PAIRS[name]
    _, _, layers, _, kv_heads, head_dim, _ = pair.sizes
    assert float(found[1]) == round(2 * pair.parameters() / 1e9, 1)
    assert int(found[2]) == round(2 * layers * kv_heads * head_dim * 2 / 1000)


@each_pair
def test_a_tiny_pair_says_what_transformers_says(name: str, tmp_path: Path) -> None:
    pair, model, head = PAIRS[name], tmp_path / "model", tmp_path / "head"
    pair.write(model, head)
    if pair.angelslim:  # as its recipe does
        command = ["export", str(tmp_path / "other"), "--to", "ltd", "--head", str(head), "--rope-theta", "10000"]
        assert main([*command, "--dtype", "float32"]) == 0
        head = tmp_path / "other"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ltd.ImplausibleHeadWarning)  # its weights are random
        decoder = ltd.load(model, head, dtype="float32", device="cpu")
    assert decoder.draft is not None and decoder.draft.feature_layers == FEATURES
    decoder.policy = ltd.Static(3, 16)
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    for prompt in ("Name three rivers.", "Why? " * 12):
        ids = torch.tensor([decoder.encode(prompt)])
        expected = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        answer = decoder.generate(ids[0].tolist(), max_new_tokens=40)
        assert answer.token_ids == expected[0, ids.shape[1] :].tolist()
        assert tokenizer.decode(answer.token_ids)


def test_the_template_of_vicuna_is_that_of_its_authors() -> None:
    tokenizer = small_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    tokenizer.chat_template = (RECIPES / "vicuna.jinja").read_text()
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]
    said = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert said == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: Hi ASSISTANT: Hello.</s>USER: Why? ASSISTANT:"
    )
    system = [{"role": "system", "content": "Be brief."}, *talk[:1]]
    assert tokenizer.apply_chat_template(system, tokenize=False) == "<s>Be brief. USER: Hi "
    with pytest.raises(Exception, match="of the user or of the assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
