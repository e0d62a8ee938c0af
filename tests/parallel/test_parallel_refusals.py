"""What cannot be spread over processes, or by a program that is one process, is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parallel_tape import CPU, Tape, led, whole_model
from small_models import small_config
from transformers import PretrainedConfig

from ltd.cli.main import main
from ltd.common.launch import is_first, launched_processes
from ltd.errors import InputError
from ltd.loading import check_place, load
from ltd.parallel.layers import LeadingLayers
from ltd.parallel.sharding import check_heads, is_sharded

Folder = Callable[[str], Path]


def test_nothing_is_said_to_who_does_not_listen(tiny_target: Folder) -> None:
    leader = led(Tape())
    with pytest.raises(InputError, match="works inside generate and stream of its decoder"):
        LeadingLayers(whole_model(tiny_target("llama")), leader)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "count", "advice"),
    [
        (32, 8, 3, "32 heads with 8 key/value heads, which cannot be divided among 3 processes; use 2, 4, 8"),
        (9, 3, 2, "use 3"),
        (4, 1, 2, "it runs in one process only"),
        (8, 8, 16, "use 2, 4, 8"),
    ],
)
def test_heads_that_cannot_be_divided(heads: int, kv_heads: int, count: int, advice: str) -> None:
    config: PretrainedConfig = small_config("llama")
    config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
    with pytest.raises(InputError, match=advice):
        check_heads(config, count)


@pytest.mark.parametrize(("heads", "kv_heads", "count"), [(32, 8, 8), (32, 8, 2), (9, 3, 3), (4, 4, 1)])
def test_heads_that_can(heads: int, kv_heads: int, count: int) -> None:
    config: PretrainedConfig = small_config("llama")
    config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
    check_heads(config, count)


def test_a_device_that_is_not_the_processes() -> None:
    check_place(CPU, led(Tape()))
    with pytest.raises(InputError, match="the device is cuda:1, but a target is spread over the cpu devices"):
        check_place(torch.device("cuda", 1), led(Tape()))


def test_one_process_is_not_enough(tiny_target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="start the program with torchrun --nproc-per-node N"):
        load(tiny_target("llama"), "none", tensor_parallel=True)
    with pytest.raises(InputError, match="tensor_parallel is 2, but must be"):
        load(tiny_target("llama"), "none", tensor_parallel=2)  # type: ignore[arg-type]


def test_a_model_of_one_process_is_not_sharded(tiny_target: Folder) -> None:
    assert not is_sharded(whole_model(tiny_target("llama")))


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launched_processes() == 1  # somebody else's
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launched_processes() == 4 and not is_first()


def test_commands_of_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, said in (("0", "error: ltd calibrate runs in one process, but torchrun started several"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["calibrate"]) == 2
        assert capsys.readouterr().err.partition(";")[0].strip() == said
