"""Which device is chosen: a GPU by itself only where `make gpu-check` has passed with this build. The GPU is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ltd
from ltd.cli.app import COMMANDS, app
from ltd.cli.main import main
from ltd.common import gpu_mark
from ltd.errors import InputError
from ltd.target import device as devices
from ltd.target.device import choose_device, resolve_device, say_device

GPU = "NVIDIA Test 9"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, a build with CUDA kernels, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
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


def test_a_mark_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        gpu_mark.write_mark()


def test_load_goes_where_the_mark_says(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tiny_target: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    """As far as that can be seen without a GPU: what loads the weights is told the device."""
    seen: list[torch.device] = []

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
            ltd.load(str(tiny_target("llama")), "none")
    assert [device.type for device in seen] == ["cpu", "cuda"]
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "command", ["generate", "demo", "eval", "check", "calibrate", "record", "tune", "train-baseline"]
)
def test_every_command_that_decodes_takes_a_device(command: str) -> None:
    assert command in COMMANDS
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert "--device" in shown.output and "make gpu-check" in shown.output


@pytest.mark.parametrize("command", [["generate", "x"], ["demo"]])
def test_a_device_that_is_not_here_is_one_sentence(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, words in (("cuda", "sees no CUDA GPU"), ("toaster", "unknown device")):
        assert main([*command, "--device", name]) == 2
        assert words in capsys.readouterr().err


def test_resolving_gives_the_same(gpu: None) -> None:
    assert resolve_device("auto").type == "cpu" and resolve_device("cuda").type == "cuda"
