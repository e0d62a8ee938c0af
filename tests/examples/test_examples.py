"""Every example in its smallest form: on tiny models, and what it shows against what it is about."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_traces import made_generations, made_latency
from recordings import DEPTH, Recorded
from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
from ltd.policies.learned.bundle import load_bundle
from ltd_rl.traces.format import save_shard
from ltd_rl.traces.replay import replay

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_MODELS = ["generate.py", "stream.py", "batch.py", "chat.py", "inside_transformers.py", "own_rule.py", "lookup.py"]
TINY_TRACES = ["replay.py", "own_reward.py"]
Ended = tuple[object, str, str]
SCRIPTS = ["train_size.sh", "train_depth.sh", "eval.sh"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """run(name, argument, …) runs a program among the examples to its end: its code, and what it prints to both."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def shown(run: Callable[..., Ended]) -> Callable[..., str]:
    """shown(name, argument, …) runs a program among the examples, which must end well, and returns what it prints."""

    def shown(*arguments: object) -> str:
        code, out, _ = run(*arguments)
        assert code == 0
        return out

    return shown


@pytest.fixture
def refused(run: Callable[..., Ended]) -> Callable[..., str]:
    """refused(name, argument, …) runs a program among the examples, and returns the sentence that it must end with."""

    def refused(*arguments: object) -> str:
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
        return err

    return refused


@pytest.fixture
def tiny(tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path]) -> tuple[Path, Path]:
    return tiny_target("llama"), tiny_head("llama")


def text_of(tiny: tuple[Path, Path], prompt: str, count: int) -> str:
    """What plain decoding answers."""
    decoder = ltd.load(tiny[0], "none")
    answer = decoder.generate(decoder.encode(prompt), max_new_tokens=count)
    return decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True)


def test_every_example_is_tested_and_short() -> None:
    names = {file.name for file in EXAMPLES.iterdir() if file.is_file()}
    assert names == {*TINY_MODELS, *TINY_TRACES, *SCRIPTS}
    for name in names:
        text = (EXAMPLES / name).read_text()
        assert sum(bool(line.strip()) for line in text.splitlines()) <= 30, name
        said = " ".join(re.sub(r"^#", "", text, flags=re.MULTILINE).split())
        assert f" examples/{name}" in said and "You see " in said, name


def test_generate(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    assert shown("generate.py", *tiny) == text_of(tiny, "Why is the sky blue?", 64) + "\n"


def test_stream(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    expected = text_of(tiny, "Write a poem about the sea, with emoji.", 64)
    assert len(expected) > 10
    assert shown("stream.py", *tiny) == expected + "\n"


def test_batch(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    questions = ["Name three rivers.", "What is 7 times 8?", "Who wrote Hamlet?"]
    expected = "".join(f"{question}\n  {text_of(tiny, question, 32)}\n" for question in questions)
    assert shown("batch.py", *tiny) == expected


def test_chat(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    decoder, messages, expected = ltd.load(*tiny, reuse_mib=0), [], ""
    for question in ("Name three rivers.", "Which is the longest?"):
        messages.append({"role": "user", "content": question})
        prompt = decoder.encode(messages)
        said = decoder.tokenizer.decode(decoder.generate(prompt, max_new_tokens=32).token_ids, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": said})
        expected += f"{question}\n  {said}\n  known: # of {len(prompt)} tokens of the prompt\n"
    printed = shown("chat.py", *tiny)
    known = re.findall(r"known: (\d+)", printed)
    first = len(decoder.encode(messages[:1]))
    assert re.sub(r"known: \d+", "known: #", printed) == expected
    assert known[0] == "0" and int(known[1]) >= first - 1


def test_inside_transformers(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny[0]), AutoTokenizer.from_pretrained(tiny[0])
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=32, do_sample=False, repetition_penalty=1.2)
    assert shown("inside_transformers.py", *tiny) == tokenizer.decode(expected[0], skip_special_tokens=True) + "\n"


def test_own_rule(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    cycles = [tuple(map(int, cycle.split(":"))) for cycle in shown("own_rule.py", *tiny).split()]
    assert cycles and all(size == 4 * (depth + 1) for depth, size in cycles)


def test_lookup(shown: Callable[..., str], tiny: tuple[Path, Path]) -> None:
    said = shown("lookup.py", tiny[0])
    assert "the same: True" in said
    assert float(re.findall(r"tokens per cycle: ([0-9.]+)", said)[0]) >= 1.0 and "'text': " in said


def test_replay(shown: Callable[..., str], recorded: Callable[[str], Recorded]) -> None:
    traces = recorded("llama")
    lines = shown("replay.py", traces.config.out).splitlines()
    for line, (depth, size) in zip(lines, [(0, 4), (1, 8), (3, 16), (DEPTH, 60)], strict=True):
        gains = [gain for g in traces.traces.generations for gain in replay(g, (depth, size)).gains.tolist()]
        assert line.startswith(f"depth {depth}, size {size}: {sum(gains)} tokens in {len(gains)} cycles, ")


def test_own_reward(shown: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    (tmp_path / "traces").mkdir()
    save_shard(tmp_path / "traces" / "00000.safetensors", made_generations(0, [60] * 4), width=3, depth=3)
    made_latency().save(tmp_path / "latency.json")
    lines = shown("own_reward.py", tmp_path, 4096)
    sizes = dict(re.findall(r"^(\w+): ([0-9.]+) candidates on average$", lines, flags=re.MULTILINE))
    assert 2 <= float(sizes["RatioReward"]) < float(sizes["PatientReward"]) <= 60


@pytest.mark.parametrize("name", TINY_MODELS + TINY_TRACES)
def test_a_wrong_call_is_told_how_it_is_called(refused: Callable[..., str], name: str) -> None:
    if name == "own_reward.py":
        pytest.importorskip("stable_baselines3")
    usage = re.search(r"`(python examples/[^`]+)`", (EXAMPLES / name).read_text())
    assert usage is not None
    for arguments in ((), ("a", "b", "c")) if name in TINY_TRACES else (("a", "b", "c"),):
        assert refused(name, *arguments).endswith(f"; write: {usage[1]}\n")


@pytest.mark.parametrize("name", TINY_MODELS + TINY_TRACES)
def test_a_wrong_folder_is_one_sentence(refused: Callable[..., str], name: str) -> None:
    if name == "own_reward.py":
        pytest.importorskip("stable_baselines3")
    for folder in ("/no/such/folder", ""):
        assert folder in refused(name, folder)


def test_steps_are_a_number(refused: Callable[..., str]) -> None:
    pytest.importorskip("stable_baselines3")
    for steps in ("many", "0", "-1", "1.5"):
        assert f"STEPS is {steps!r}" in refused("own_reward.py", "folder", steps)


def run_script(name: str, *arguments: object) -> str:
    """Runs a shell script among the examples, somewhere else, and returns what it prints; it must end well."""
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    words = ["sh", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=EXAMPLES.parent / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_papers_scripts(tiny: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    models = ["--base_model_path", tiny[0], "--ea_model_path", tiny[1], "--dtype", "float32"]
    small = [*models, "--sizes", "4,12", "--depth_limit", 2, "--total_timesteps", 128, "--n_steps", 64, "--batch_size",
             32, "--n_epochs", 1, "--pi_arch", 8, "--vf_arch", 8]  # fmt: skip
    sources = ["--data_dir", data, "--dataset_train", "first", "--max_new_tokens", 12, "--calibration_seconds", 0.01]
    run_script("train_depth.sh", *small, *sources, "--save_path", tmp_path / "depth")
    depth = tmp_path / "depth" / "bundle"
    assert load_bundle(depth).training["batch_size"] == 32 and load_bundle(depth).policy.depth_network is not None
    made = ["--traces", tmp_path / "depth" / "traces", "--latency", tmp_path / "depth" / "latency.json"]
    run_script("train_size.sh", *small, *made, "--save_path", tmp_path / "size")
    size = tmp_path / "size" / "bundle"
    assert load_bundle(size).policy.size_network is not None
    asked = ["--data_dir", data, "--bench-name", "first", "--limit", 1, "--max_new_token", 8]
    table = run_script("eval.sh", depth, size, *models, *asked, "--save_path", tmp_path / "results")
    assert all(method in table for method in ("none", "eagle3", "ltd"))
    policy = load_bundle(tmp_path / "results" / "policy").policy
    assert policy.depth_network is not None and policy.size_network is not None and policy.sizes == (4, 12)
