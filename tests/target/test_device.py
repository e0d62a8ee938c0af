"""Which device is chosen: a GPU by itself only where `make gpu-check` has passed with this build. The GPU is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import small_config
from typer.testing import CliRunner

import ltd
from ltd.cli.app import COMMANDS, app
from ltd.cli.main import main
from ltd.common import gpu_mark
from ltd.common.machine import processor_name
from ltd.errors import InputError
from ltd.policy_choice import make_setting
from ltd.target import device as devices
from ltd.target.device import choose_device, resolve_device, say_device

GPU = "NVIDIA Test 9"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, a build with CUDA kernels, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: GPU)
    monkeypatch.setattr(devices, "build_info", lambda: {"cuda": True, "cuda_reason": ""})
    say_device.cache_clear()


@pytest.mark.parametrize("asked", ["auto", None])
def test_without_a_gpu_it_is_the_cpu_and_nothing_is_said(
    asked: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = choose_device(asked)
    say_device(chosen)
    assert chosen.device.type == "cpu" and not chosen.reason
    assert capsys.readouterr() == ("", "")


def test_an_unchecked_gpu_is_not_chosen(gpu: None, capsys: pytest.CaptureFixture) -> None:
    chosen = choose_device("auto")
    assert chosen.device.type == "cpu"
    say_device(chosen)
    say_device(choose_device("auto"))
    (line,) = capsys.readouterr().err.splitlines()  # once
    assert line.startswith(
        "ltd decodes on device cpu: make gpu-check has not passed with this build on the NVIDIA Test"
    )


def test_a_checked_gpu_is(gpu: None, capsys: pytest.CaptureFixture) -> None:
    gpu_mark.write_mark()
    chosen = choose_device("auto")
    assert chosen.device.type == "cuda"
    say_device(chosen)
    assert capsys.readouterr().err == f"ltd decodes on device cuda: make gpu-check has passed on this {GPU}\n"


@pytest.mark.parametrize("name", ["gpu", "torch", "transformers", "kernels_sha256"])
def test_a_mark_of_another_machine_or_build_is_none(gpu: None, name: str) -> None:
    file = gpu_mark.write_mark()
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, name: "another"}))
    assert choose_device("auto").device.type == "cpu"
    file.write_text(json.dumps(content))
    assert choose_device("auto").device.type == "cuda"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_mark_is_none(gpu: None, content: str) -> None:
    gpu_mark.write_mark().write_text(content)
    assert choose_device("auto").device.type == "cpu"


def test_a_build_without_cuda_kernels_stays_on_the_cpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_mark.write_mark()
    monkeypatch.setattr(devices, "build_info", lambda: {"cuda": False, "cuda_reason": "no CUDA compiler was found"})
    chosen = choose_device("auto")
    assert chosen.device.type == "cpu" and chosen.reason.endswith("no CUDA kernels: no CUDA compiler was found")


@pytest.mark.parametrize("asked", ["cuda", "cuda:0", torch.device("cuda"), "cpu", torch.device("cpu")])
def test_what_is_asked_for_is_taken_without_a_word(gpu: None, asked: str | torch.device) -> None:
    chosen = choose_device(asked)
    assert chosen.device == torch.device(asked) and not chosen.reason


@pytest.mark.parametrize("as_asked", [str, torch.device])
@pytest.mark.parametrize(
    ("count", "complaint"),
    [
        (0, "this torch sees no CUDA GPU; use device cpu"),
        (1, "this torch sees 1 CUDA GPU; use device cuda:0"),
        (7, "this torch sees 7 CUDA GPUs; use device cuda:0 … cuda:6"),
    ],
)
def test_a_gpu_that_is_not_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, as_asked: Callable[[str], str | torch.device], count: int, complaint: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError) as refused:
        choose_device(as_asked("cuda:7"))
    assert str(refused.value) == f"device 'cuda:7' was asked for, but {complaint}"
    for number in range(count):
        assert choose_device(as_asked(f"cuda:{number}")).device == torch.device("cuda", number)


@pytest.mark.parametrize("name", ["", "mps", "meta", "cpu:1", "cuda:", "cuda:-1", "cuda:x", "cuda:01", "cuda: 1"])
def test_what_is_no_device_here_is_refused(gpu: None, name: str) -> None:
    with pytest.raises(InputError, match=r"unknown device .*; use auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize("number", ["256", "1000", "99999999999"])
def test_a_number_that_torch_cuts_is_not_another_gpu(gpu: None, number: str) -> None:
    with pytest.raises(InputError):
        choose_device(f"cuda:{number}")


def test_a_mark_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        gpu_mark.write_mark()


def test_load_goes_where_the_mark_says(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tiny_target: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    """As far as that can be seen without a GPU: what loads the weights is told the device."""
    seen: list[torch.device] = []
    target = str(tiny_target("llama"))
    capsys.readouterr()  # what making it says, where no other test has

    def stop(name: object, dtype: torch.dtype, device: torch.device, read: object) -> None:
        seen.append(device)
        raise InputError("far enough")

    monkeypatch.setattr("ltd.loading.load_model", stop)
    monkeypatch.setattr("ltd.loading.build_info", lambda: {"cuda": True})
    monkeypatch.setattr("ltd.loading.choose_policy", lambda *_, **__: None)
    for marked in (False, True):
        if marked:
            gpu_mark.write_mark()
        with pytest.raises(InputError, match="far enough"):
            ltd.load(target, "none")
    assert [device.type for device in seen] == ["cpu", "cuda"]
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "command", ["generate", "demo", "eval", "check", "calibrate", "record", "tune", "train-baseline"]
)
def test_every_command_that_decodes_takes_a_device(command: str) -> None:
    assert command in COMMANDS
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert "--device" in shown.output and "make gpu-check" in shown.output


COMMAND_LINES = (
    "generate x",
    "demo",
    "eval --tasks first --data-dir DATA --out OUT",
    "check --tasks first --data-dir DATA --out OUT/check.json",
    "calibrate --out OUT/latency.json",
    "record --tasks first --data-dir DATA --out OUT",
    "fit-sampling --tasks first --data-dir DATA --out OUT",
    "tune --tasks first --data-dir DATA --out OUT",
    "train-baseline disco --tasks first --data-dir DATA --out OUT",
    "train-draft --out OUT",
)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_device_that_is_not_here_is_one_sentence_before_a_model_is_loaded(
    line: str, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    questions = tmp_path / "data" / "first" / "question.jsonl"
    questions.parent.mkdir(parents=True)
    questions.write_text("".join(f'{{"question_id": {n}, "turns": ["Say {n}"]}}\n' for n in range(5)))
    for place in ("ltd.target.model.load_model", "ltd.loading.load_model", "ltd.training.train.load_model"):
        monkeypatch.setattr(place, None)
    words = line.replace("DATA", str(tmp_path / "data")).replace("OUT", str(tmp_path / "out")).split()
    for name, complaint in (("cuda:7", "this torch sees 1 CUDA GPU"), ("toaster", "unknown device 'toaster'")):
        assert main([*words, "--device", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and complaint in said and said.count("\n") == 1


def test_resolving_gives_the_same(gpu: None) -> None:
    assert resolve_device("auto").type == "cpu" and resolve_device("cuda").type == "cuda"


def test_of_several_gpus_the_one_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is tuned on one kind of GPU would be taken on the other."""
    names = {None: "GPU zero", "cuda": "GPU zero", "cuda:0": "GPU zero", "cuda:1": "GPU one"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: names[device and str(device)])
    config = small_config("llama")
    for device, expected in (("cuda", "GPU zero"), ("cuda:0", "GPU zero"), ("cuda:1", "GPU one")):
        assert make_setting(config, None, torch.bfloat16, torch.device(device)).hardware == expected
    assert make_setting(config, None, torch.bfloat16, torch.device("cpu")).hardware == processor_name()
