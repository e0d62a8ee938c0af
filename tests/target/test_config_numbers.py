"""Numbers in a config.json that no model can have: one whole sentence that names the key, before weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
from ltd.target.model import load_model, read_config

Folder = Callable[[str], Path]
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


@pytest.fixture
def changed(tiny_target: Folder, tmp_path: Path) -> Callable[..., str]:
    """changed(key=value, …) → a copy of a good model whose config says so."""

    def change(**values: Any) -> str:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_target("llama"), folder)
        config = json.loads((folder / "config.json").read_text())
        if "rope_theta" in values:
            config.pop("rope_parameters", None)
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        return str(folder)

    return change


@pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, 2**31, [3]])
@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads"])
def test_a_size_that_is_none(changed: Callable[..., str], name: str, value: Any) -> None:
    with pytest.raises(ltd.InputError) as told:
        read_config(changed(**{name: value}))
    assert f"says {name} = {value!r}, but it must be a whole number, 1 … 2^31 - 1" in str(told.value)


def test_a_context_that_holds_no_answer(changed: Callable[..., str]) -> None:
    folder = changed(max_position_embeddings=1)
    with pytest.raises(ltd.InputError, match=r"max_position_embeddings = 1, but it must be a whole number, 2 …"):
        ltd.load(folder, "none")


@pytest.mark.parametrize("value", [0, 0.0, -1e4, float("inf"), float("nan"), 10**400])
@pytest.mark.parametrize("name", ["rope_theta", "factor", "original_max_position_embeddings"])
def test_positions_that_cannot_be_turned(changed: Callable[..., str], name: str, value: float) -> None:
    folder = changed(rope_parameters={**LINEAR, name: value})
    with pytest.raises(ltd.InputError, match=f"says {name} = .*, but it must be a number above 0"):
        load_model(folder, torch.float32, torch.device("cpu"))
    if name == "rope_theta":  # as files of older versions say it
        with pytest.raises(ltd.InputError, match=r"says rope_theta = .*, but it must be a number above 0"):
            read_config(changed(rope_theta=value))


@pytest.mark.parametrize("value", [-1e-6, float("inf"), float("nan")])
def test_a_norm_that_cannot_be(changed: Callable[..., str], value: float) -> None:
    with pytest.raises(ltd.InputError, match="says rms_norm_eps = "):
        read_config(changed(rms_norm_eps=value))


def test_what_can_be_is_taken(changed: Callable[..., str]) -> None:
    for values in ({"rope_theta": 500}, {"rope_parameters": LINEAR}, {"rms_norm_eps": 0.0}):
        assert read_config(changed(**values)).model_type == "llama"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_act": "nope"}, "'nope'"),
        ({"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}}, "nope"),
        ({"rope_parameters": 3}, ""),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"layer_types": ["full_attention", 3]}, "layer_types"),
        ({"head_dim": "wide"}, "head_dim"),
        ({"eos_token_id": "end"}, "eos_token_id"),
        ({"dtype": "float99"}, "float99"),
    ],
)
def test_whatever_transformers_raises_is_a_whole_sentence(
    changed: Callable[..., str], values: dict[str, Any], words: str
) -> None:
    folder = changed(**values)
    with pytest.raises(ltd.InputError) as told:
        ltd.load(folder, "none")
    said = str(told.value).replace(folder, "it")
    assert words in said and not said.endswith(":")
    assert len(said.partition(": ")[2].split()) > 3, said  # more than a key
