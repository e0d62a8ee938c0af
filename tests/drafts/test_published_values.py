"""One wrong value in a published head's files is one sentence, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltd.drafts.eagle3.export import export_head
from ltd.drafts.eagle3.files import load_head
from ltd.errors import InputError

NO_LAYERS = ("2,4,5", 2, 2.5, {}, True, [2, 4, 2.9], [2, 4, True], [2, 4, None], [2, 4, "abc"], [2, 4, -1],
             [2, 4, 10**30], [[2], [4], [5]], [2, 4, float("inf")])  # fmt: skip
NO_OBJECTS = ("abc", 0, 2.5, True, [], [1])
NO_WHOLE = (0, -1, 0.5, 1.5, float("inf"), float("nan"), True, "abc", [], {}, 10**30)
NO_REAL = (0, -1.5, float("inf"), float("nan"), True, "abc", [], {})
NO_FLAGS = (0, 1, 0.5, "false", [], {})
WRONG = {
    **dict.fromkeys(("ltd_feature_layers", "eagle_aux_hidden_state_layer_ids"), NO_LAYERS),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), (*NO_OBJECTS, {"rope_type": [1]}, {"rope_theta": "abc"})),
    **dict.fromkeys(
        ("target_hidden_size", "max_position_embeddings", "num_attention_heads", "vocab_size", "draft_vocab_size"),
        NO_WHOLE,
    ),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), NO_REAL),
    **dict.fromkeys(
        ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "embed_requires_grad"), NO_FLAGS
    ),
}


@pytest.fixture
def folders(tiny_head: Callable[..., Path], tmp_path: Path) -> dict[str, Path]:
    """A good head in two published layouts."""
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    for layout in ("vllm", "speculators"):
        export_head(head, layout, tmp_path / layout)
    return {layout: tmp_path / layout for layout in ("vllm", "speculators")}


def refuse(folder: Path, values: dict[str, Any], message: str) -> None:
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), **values}))
    with pytest.raises(InputError, match=message) as caught:
        load_head(folder, torch.float32, "cpu")
    assert "\n" not in str(caught.value)
    file.write_text(before)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(folders: dict[str, Path], name: str) -> None:
    for wrong in WRONG[name]:
        refuse(folders["vllm"], {name: wrong}, rf"the config of the draft head in .* says {name}\b")
        refuse(folders["vllm"], {"eagle_config": {name: wrong}}, rf" says eagle_config\.{name}\b")
        refuse(folders["speculators"], {"transformer_layer_config": {name: wrong}},
               rf" says transformer_layer_config\.{name}\b")  # fmt: skip


@pytest.mark.parametrize("wrong", NO_OBJECTS)
def test_what_must_be_an_object(folders: dict[str, Path], wrong: Any) -> None:
    refuse(folders["vllm"], {"eagle_config": wrong}, "says eagle_config = .*, but it must be an object")
    refuse(folders["speculators"], {"transformer_layer_config": wrong}, "says transformer_layer_config = .* an object")


@pytest.mark.parametrize("name", [*WRONG, "hidden_size", "head_dim"])
def test_null_says_nothing(folders: dict[str, Path], name: str) -> None:
    file = folders["vllm"] / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: None}))
    if name == "num_attention_heads":
        with pytest.raises(InputError, match="does not say num_attention_heads"):
            load_head(folders["vllm"], torch.float32, "cpu")
    else:
        load_head(folders["vllm"], torch.float32, "cpu")


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2), (0, 4), (0,)])
def test_wrong_shapes(folders: dict[str, Path], shape: tuple[int, ...]) -> None:
    file = folders["vllm"] / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if tensor.ndim == len(shape) and 0 not in shape:
            continue
        save_file({**tensors, name: torch.ones(shape, dtype=tensor.dtype)}, file)
        with pytest.raises(InputError, match=rf"has shape \({', '.join(map(str, shape))}") as caught:
            load_head(folders["vllm"], torch.float32, "cpu")
        assert "\n" not in str(caught.value)
