"""Heads that could be loaded and would never be right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltd.drafts.eagle3.files import load_head
from ltd.errors import InputError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip


@pytest.fixture
def folder(tiny_head: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a good head."""
    return Path(shutil.copytree(tiny_head("llama"), tmp_path / "head"))


def change(folder: Path, **values: Any) -> None:
    """Writes these into its config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def load(folder: Path) -> None:
    load_head(folder, torch.float32, "cpu")


@pytest.mark.parametrize("scaling", [None, {"rope_type": "default"}, {"rope_type": "linear", "factor": 2},
                                     {"rope_type": "yarn", "factor": 4.0}, LLAMA3])  # fmt: skip
def test_whole_rope_settings_are_taken(folder: Path, scaling: dict[str, Any] | None) -> None:
    change(folder, rope_scaling=scaling)
    load(folder)


@pytest.mark.parametrize(
    ("scaling", "lacks"),
    [
        *[({"rope_type": kind}, "factor") for kind in ("linear", "yarn", "llama3")],
        *[({name: value for name, value in LLAMA3.items() if name != left_out}, left_out)
          for left_out in LLAMA3 if left_out != "rope_type"],
        *[({"rope_type": "linear", "factor": wrong}, "factor") for wrong in (0, -1.0, "2", None, True, [2])],
    ],
)  # fmt: skip
def test_incomplete_rope_settings_are_refused(folder: Path, scaling: dict[str, Any], lacks: str) -> None:
    change(folder, rope_scaling=scaling)
    with pytest.raises(InputError, match=f"RoPE type {scaling['rope_type']} needs {lacks}, a number above 0"):
        load(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "lm_head.weight", "layer.mlp.down_proj.weight"])
def test_weights_that_are_not_finite_are_refused(folder: Path, name: str, number: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = number
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=f"{name} holds numbers that are not finite"):
        load(folder)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_numbers_that_make_no_positions_or_norms_are_refused(folder: Path, value: float) -> None:
    change(folder, rope_theta=value)
    with pytest.raises(InputError, match="rope_theta"):
        load(folder)
    change(folder, rope_theta=1e4, rms_norm_eps=-1.0 if value == 0 else value)
    with pytest.raises(InputError, match="rms_norm_eps"):
        load(folder)


@pytest.mark.parametrize("place", ["flat", "nested"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh", 7])
def test_another_activation_is_refused(folder: Path, place: str, activation: Any) -> None:
    values = {"hidden_act": activation}
    change(folder, **(values if place == "flat" else {"transformer_layer_config": values}))
    with pytest.raises(InputError, match=f"has the activation {activation!r}; only silu is supported"):
        load(folder)


@pytest.mark.parametrize("activation", ["silu", "swish", None])
def test_the_usual_activation_may_be_named(folder: Path, activation: str | None) -> None:
    change(folder, hidden_act=activation)
    load(folder)
