"""The command line as a user meets it: output, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ltd.cli import main
from ltd.cli.generate import asked_policy
from ltd.cli.train_draft import train_draft
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.loading import load
from ltd.policies import Learned, Static
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.store import bundle_folder
from ltd.policy_choice import choose_policy, expected_setting, setting_of
from ltd.target.device import resolve_device, resolve_dtype
from ltd.training.config import TrainDraftConfig
from ltd_rl.traces.format import load_traces

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run("generate", "hi") → exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def model(tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> list[str]:
    """Options that choose a tiny random model and its head."""
    return ["--target", str(tiny_target("llama")), "--draft", str(tiny_head("llama")), "--dtype", "float32"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one task of two questions."""
    (tmp_path / "data" / "talk").mkdir(parents=True)
    lines = [json.dumps({"turns": ["Hi"]}), json.dumps({"turns": ["What", "now?"]})]
    (tmp_path / "data" / "talk" / "question.jsonl").write_text("\n".join(lines))
    return tmp_path / "data"


# --- generate ---


@pytest.mark.parametrize("chat", [True, False])
def test_generate_prints_the_text_and_one_line_of_statistics(run: Run, model: list[str], chat: bool) -> None:
    decoder = load(model[1], model[3], dtype="float32")
    answer = decoder.generate(decoder.encode("Hello", chat=chat), max_new_tokens=20)
    code, out, err = run("generate", "Hello", *model, "--max-new-tokens", "20", "--chat" if chat else "--raw")
    assert code == 0
    assert out == decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True) + "\n"
    assert err.count("\n") == 1
    assert f"{len(answer.token_ids)} new tokens in {answer.statistics.cycles} cycles" in err


def test_a_history_that_nothing_is_looked_up_in_is_refused(run: Run, model: list[str], tmp_path: Path) -> None:
    setting = setting_of(load(model[1], model[3], dtype="float32"))
    assert setting is not None
    save_bundle(Bundle(Learned(setting, 2, (4,))), tmp_path / "bundle")
    (tmp_path / "known.txt").write_text("Hello there")
    given = ["generate", "Hello", *model, "--max-new-tokens", "2", "--history", str(tmp_path / "known.txt")]
    assert run(*given)[0] == 0  # what is the default looks up
    code, _, err = run(*given, "--policy", str(tmp_path / "bundle"))
    assert code == 2 and "--history is looked up in, which" in err and "does not; leave it out" in err


def test_json_is_one_object_and_drafting_changes_no_token(run: Run, model: list[str]) -> None:
    answers = []
    for options in (["--policy", "none"], ["--policy", "static"], ["--depth", "3"], ["--size", "0"], []):
        code, out, err = run("generate", "Hello", *model, "--json", "--max-new-tokens", "16", *options)
        assert (code, err, out.count("\n")) == (0, "", 1)
        answers.append(json.loads(out))
    wanted = {"text", "token_ids", "new_tokens", "cycles", "acceptance_length", "seconds", "tokens_per_second"}
    assert all(wanted <= answer.keys() for answer in answers)
    assert all(answer["token_ids"] == answers[0]["token_ids"] for answer in answers)
    assert all(answer["new_tokens"] == len(answer["token_ids"]) for answer in answers)
    assert answers[0]["text"] == load(model[1], "none").tokenizer.decode(
        answers[0]["token_ids"], skip_special_tokens=True
    )
    plain, static, deep, empty, default = (set(zip(a["depths"], a["sizes"], strict=True)) for a in answers)
    usual = load(model[1], model[3], policy="static").policy
    assert (plain, deep, empty) == ({(-1, 0)}, {(3, 60)}, {(8, 0)})
    for chosen in (static, default):  # how many tokens the text proposes differs from cycle to cycle
        assert {depth for depth, _ in chosen} <= {-1, usual.depth}
        assert max(size for _, size in chosen) <= usual.max_size


def test_sampling_depends_on_the_seed_alone(run: Run, model: list[str]) -> None:
    def sampled(*options: str) -> list[int]:
        code, out, _ = run("generate", "Hello", *model, "--json", "--temperature", "1.5", *options)
        assert code == 0
        ids: list[int] = json.loads(out)["token_ids"]
        return ids

    first = sampled("--seed", "1")
    assert sampled("--seed", "1", "--depth", "2", "--size", "5") == first
    assert sampled("--seed", "2") != first
    assert sampled("--seed", "3", "--top-k", "1") == sampled("--seed", "4", "--top-p", "0.000001")


def test_plain_decoding_needs_no_draft(run: Run, model: list[str]) -> None:
    code, out, _ = run("generate", "Hello", *model[:2], "--dtype", "float32", "--policy", "none", "--json")
    assert code == 0
    assert json.loads(out)["acceptance_length"] == 1.0


def test_a_prompt_comes_from_a_file_or_standard_input(
    run: Run, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*model, "--max-new-tokens", "8"]
    (tmp_path / "prompt").write_text("Hello")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    wanted = run("generate", "Hello", *options)[1]
    assert run("generate", "--prompt-file", str(tmp_path / "prompt"), *options)[1] == wanted
    assert run("generate", "-", *options)[1] == wanted


def test_options_ask_for_a_policy() -> None:
    assert asked_policy(None, None, None) is None
    assert asked_policy("none", None, None) == "none"
    assert asked_policy("static", None, None) == "static"  # as for ltd.load
    assert asked_policy("static", 2, None) == Static(2, 60)
    assert asked_policy(None, 0, None) == Static(0, 60)
    assert asked_policy("static", None, 0) == Static(8, 0)
    for name, depth, size in (("none", 1, None), ("none", None, 0), ("other", None, None), (None, 13, None)):
        with pytest.raises(InputError):
            asked_policy(name, depth, size)


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["generate"], "give one prompt"),
        (["generate", "hi", "--prompt-file", "x"], "give one prompt"),
        (["generate", "--prompt-file", "no such file"], "no such file"),
        (["generate", "bad \udcff bytes"], "UTF-8"),
        (["generate", "hi", "--policy", "magic"], "unknown policy 'magic'"),
        (["generate", "hi", "--policy", "none", "--depth", "2"], "neither --depth nor --size"),
        (["generate", "hi", "--depth", "13"], "depth 13"),
        (["generate", "hi", "--depth", "-1"], "depth -1"),
        (["generate", "hi", "--size", "513"], "size 513"),
        (["generate", "hi", "--max-new-tokens", "0"], "max-new-tokens"),
        (["generate", "hi", "--temperature", "-1"], "temperature"),
        (["generate", "hi", "--temperature", "nan"], "temperature"),
        (["generate", "hi", "--temperature", "warm"], "temperature"),
        (["generate", "hi", "--top-p", "0"], "top_p"),
        (["generate", "hi", "--top-k", "-1"], "top_k"),
        (["generate", "hi", "--seed", "-1"], "seed"),
        (["generate", "hi", "--dtype", "int8"], "int8"),
        (["generate", "hi", "--threads", "0"], "threads"),
        (["generate", "hi", "--target", "/no/such/folder"], "/no/such/folder"),
        (["generate", "hi", "--target", "no/such.gguf"], "no/such.gguf"),
        (["generate", "hi", "--color"], "--color"),
        (["demo", "--runs", "0"], "runs"),
        (["eval", "--out", "x"], "--data-dir"),
        (["eval", "--data-dir", "nowhere", "--out", "x"], "no data folder nowhere"),
        (["check", "--data-dir", "nowhere", "--out", "x.json"], "no data folder nowhere"),
        (["train-draft"], "--out"),
        (["train-draft", "--out", "x", "--epochs", "0"], "epochs is 0"),
        (
            ["train-draft", "--out", "x", "--quick", "--tokens", "9"],
            "--quick, which is the same as",
        ),
        (
            ["train-draft", "--out", "x", "--quick", "--hours", "8"],
            "--hours 1, makes no use",
        ),
        (
            ["train-draft", "--out", "x", "--hours", "8", "--tokens", "9"],
            "--tokens makes no use of --hours",
        ),
        (["train-draft", "--out", "x", "--mix", "poems=1"], "mix names 'poems'"),
        (["paint"], "paint"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert complaint in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([""], "empty"),
        (["x" * 400], "256"),
        (["hi", "--draft", "/no/such/head"], "/no/such/head"),
    ],
)
def test_a_mistake_that_only_the_model_can_tell(run: Run, model: list[str], options: list[str], complaint: str) -> None:
    code, out, err = run("generate", *model, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert complaint in err


def test_the_template_is_used_if_there_is_one_and_must_be_there_if_asked_for(
    run: Run, model: list[str], tmp_path: Path
) -> None:
    shutil.copytree(model[1], tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    bare = ["--target", str(tmp_path / "bare"), *model[2:]]
    short = ["--max-new-tokens", "8"]
    assert run("generate", "hi", *model, *short)[1] == run("generate", "hi", *model, *short, "--chat")[1]
    assert run("generate", "hi", *bare, *short)[1] == run("generate", "hi", *model, *short, "--raw")[1]
    code, out, err = run("generate", "hi", *bare, "--chat")
    assert (code, out) == (2, "")
    assert "no chat template" in err


def test_an_error_of_ours_keeps_its_traceback(model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Decoder, "stream", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate", "hi", *model])


def test_control_c_ends_quietly(run: Run, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Iterator[list[int]]:
        yield [40]
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "stream", interrupted)
    code, _, err = run("generate", "hi", *model)
    assert (code, err) == (130, "")


# --- the other commands ---


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    lines = "import sys; from ltd.cli import main; main(['train-draft', '--help']); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "160"}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, env=environment, check=True)
    assert "--draft-vocab-size" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_version_and_bare_call(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("ltd 0.")
    for arguments in ([], ["--help"], ["-h"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert "generate" in out


def test_info_names_versions_machine_kernels_and_defaults(run: Run) -> None:
    code, out, err = run("info")
    assert (code, err) == (0, "")
    for word in (torch.__version__, transformers.__version__, "processor", "threads", "cpu_kernels", "SmolLM2-135M"):
        assert word in out


@pytest.mark.parametrize("hardware", ["this", "another", None])
def test_info_names_the_default_policy(
    run: Run, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: str | None
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("ltd.target.locate.local_default", lambda: model[1])
    monkeypatch.setattr("ltd.common.assets.shipped_head", lambda: Path(model[3]))
    monkeypatch.setattr("ltd.drafts.opening.shipped_head", lambda: Path(model[3]))
    monkeypatch.setattr("ltd.policies.learned.store.shipped_policies", lambda: tmp_path / "shipped")
    device = resolve_device(None)
    setting = expected_setting(model[1], None, resolve_dtype("auto", device), device)
    assert setting is not None
    if hardware == "this":
        save_bundle(Bundle(Learned(setting, 2, (5,))), bundle_folder(setting))
        wanted = f"depth 2, size 5, tuned for this machine, in {bundle_folder(setting)}"
    elif hardware is not None and device.type == "cpu":
        save_bundle(Bundle(Learned(replace(setting, hardware=hardware), 2, (5,))), tmp_path / "shipped" / "one")
        wanted = "depth 2, size 5, shipped with ltd and tuned on another; ltd tune makes one for this machine"
    else:
        static = choose_policy("static", lambda: setting, device).policy
        wanted = f"{static}, as no learned one fits; ltd tune makes one for this machine"
    code, out, err = run("info")
    assert (code, err) == (0, "")
    assert wanted in out


def test_info_converts_nothing_to_know_the_policy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltd.target.locate.local_default", lambda: None)
    code, out, _ = run("info")
    assert code == 0
    assert "chosen at the first use" in " ".join(out.split())


def test_a_warning_is_one_line(run: Run, model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    warnings.simplefilter("always")
    folder = bundle_folder(setting_of(load(model[1], model[3], dtype="float32")))
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text("{")
    code, out, err = run("generate", "hi", *model, "--json", "--max-new-tokens", "4")
    assert (code, out.count("\n"), err.count("\n")) == (0, 1, 1)
    assert err.startswith(f"warning: the policy bundle {folder} cannot be used: ")


def test_train_draft_takes_every_setting(run: Run) -> None:
    options = dict(inspect.signature(train_draft).parameters)
    del options["context"]
    fields = TrainDraftConfig.__dataclass_fields__
    assert not options.pop("quick").default
    assert options.pop("ray").default is options.pop("ray_cpus").default is None  # who does the work, not what is done
    assert options.keys() == fields.keys()
    assert {n: o.default for n, o in options.items() if n != "out"} == {
        n: field.default for n, field in fields.items() if n != "out"
    }


def test_eval_writes_its_files_and_prints_the_table(run: Run, model: list[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["eval", "--data-dir", str(data), "--tasks", "talk", "--out", str(out), "--max-new-tokens", "6"]
    code, printed, _ = run(*arguments, *model, "--methods", "none,static:1:3")
    assert code == 0
    plots = {"plot.png", "time.png", "choices.png"}
    assert {file.name for file in out.iterdir()} == {
        "samples.jsonl",
        ".samples.jsonl.lock",
        "results.json",
        "table.md",
        *plots,
    }
    assert "static:1:3" in printed
    code, _, err = run(*arguments, *model, "--methods", "none")
    assert (code, err.count("\n")) == (2, 1)
    assert "methods" in err


def test_check_exits_with_1_only_if_a_text_is_wrong(
    run: Run, model: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["check", "--data-dir", str(data), "--tasks", "talk", "--max-new-tokens", "6", *model]
    code, printed, _ = run(*arguments, "--out", str(tmp_path / "good.json"))
    assert code == 0
    assert "wrong" in printed
    stream = Decoder.stream
    monkeypatch.setattr(Decoder, "stream", lambda *args, **settings: list(stream(*args, **settings))[:-1])
    assert run(*arguments, "--out", str(tmp_path / "bad.json"))[0] == 1


def test_record_makes_traces_and_goes_on(run: Run, model: list[str], data: Path, tmp_path: Path) -> None:
    arguments = ["record", "--data-dir", str(data), "--tasks", "talk", "--out", str(tmp_path / "traces"), *model]
    for _ in range(2):
        code, out, err = run(*arguments, "--max-new-tokens", "6", "--depth", "2")
        assert (code, out) == (0, "") and err.endswith(f"the traces are in {tmp_path / 'traces'}\n")
    assert [(g.question_id, g.turn) for g in load_traces(tmp_path / "traces").generations] == [
        ("1", 0),
        ("2", 0),
        ("2", 1),
    ]
    code, _, err = run(*arguments, "--depth", "3")
    assert code == 2 and "holds a run with depth 2" in err and err.count("\n") == 1


def test_demo_shows_both_ways_and_compares(run: Run, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = run("demo", *model, "--max-new-tokens", "6", "--runs", "1")
    assert (code, err) == (0, "")
    assert out.count("[draft trees]") == out.count("[plain decoding]") == 2
    assert "speedup" in out
    assert out.count("yes") == 2


def test_demo_of_a_text_of_one_token_has_no_speedup(run: Run, model: list[str]) -> None:
    code, out, err = run("demo", *model, "--max-new-tokens", "1", "--runs", "1")
    assert (code, err) == (0, "")
    assert out.count("yes") == 2


def test_demo_needs_a_draft(run: Run, model: list[str]) -> None:
    code, _, err = run("demo", *model[:2], "--draft", "none")
    assert code == 2
    assert "needs a draft" in err
