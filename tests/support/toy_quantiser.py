"""A way to quantise that needs no package: whole numbers with a scale for each row, registered in `transformers`.

Its layers are subclasses of `nn.Linear`, as those of bitsandbytes are, which makes them easy to mistake for plain ones.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

NAME = "toy"
FP8_BLOCK, FP8_LARGEST = 16, 448.0  # rows and columns that share a scale; the largest number of float8_e4m3fn


class ToyLinear(nn.Linear):
    """int8 weights (outputs, inputs), and a scale (outputs, 1) for each row."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight = nn.Parameter(torch.empty_like(self.weight, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(plain.out_features, 1, device="meta"), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale.to(inputs.dtype), self.bias)


@register_quantization_config(NAME)
class ToyConfig(QuantizationConfigMixin):
    """Knows nothing but its name."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = NAME  # type: ignore[assignment]


@register_quantizer(NAME)
class ToyQuantizer(HfQuantizer):
    """Puts `ToyLinear` in the place of the layers' projections, which the files' tensors then fill."""

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, child in list(part.named_children()):
                    if type(child) is nn.Linear:
                        setattr(part, name, ToyLinear(child))

    @property
    def is_trainable(self) -> bool:
        return False

    def is_serializable(self) -> bool:
        return True


def toy_quantised(source: Path, out: Path) -> Path:
    """A model's folder, quantised so."""
    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name] = (weight / scale).round().to(torch.int8)
            tensors[name.removesuffix("weight") + "scale"] = scale
        else:
            tensors[name] = weight
    return written(source, out, tensors, {"quant_method": NAME})


def fp8_quantised(source: Path, out: Path) -> Path:
    """A model's folder as published FP8 ones are, with a scale for each block."""
    tensors = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            blocks = in_blocks(weight)
            scales = blocks.abs().amax((1, 3)) / FP8_LARGEST
            tensors[name] = (blocks / scales[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scales
        else:
            tensors[name] = weight
    facts = {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK], "activation_scheme": "dynamic"}
    return written(source, out, tensors, facts)


def in_blocks(weight: Tensor) -> Tensor:
    """(rows, columns) → (row blocks, rows in one, column blocks, columns in one)."""
    return weight.unflatten(1, (-1, FP8_BLOCK)).unflatten(0, (-1, FP8_BLOCK))


def plain_again(quantised: Path, out: Path) -> Path:
    """A folder of either kind with its numbers times their scales as plain float32 weights."""
    held = load_file(quantised / "model.safetensors")
    tensors = {}
    for name, weight in held.items():
        if (scales := held.get(name.removesuffix("weight") + "scale")) is not None:
            tensors[name] = weight.float() * scales
        elif (scales := held.get(f"{name}_scale_inv")) is not None:
            tensors[name] = (in_blocks(weight.float()) * scales[:, None, :, None]).reshape(weight.shape)
        elif not name.endswith(("_proj.scale", "_scale_inv")):
            tensors[name] = weight
    return written(quantised, out, tensors, None)


def written(source: Path, out: Path, tensors: dict[str, Tensor], facts: dict[str, Any] | None) -> Path:
    """A copy of a model's folder with other tensors, quantised or not."""
    shutil.copytree(source, out)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text())
    stated.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(stated if facts is None else {**stated, "quantization_config": facts}))
    return out
