"""Quantised models: which of them can be tried, and what became of one that was loaded.

`transformers` loads them, with the packages that their methods need, and runs their layers. Some are dequantised on the
way, as FP8 is where there is no GPU for it; their weights are plain then, and an engine can have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from ltd.engine.packed_linear import is_plain
from ltd.errors import InputError

QUANTISATION = "quantization_config"  # in a config
MOST_PACKED = 32  # weights in one number of a file, at most
ATTENTION, GATED = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def method_of(values: Mapping[str, Any], place: str) -> str | None:
    """How a model is quantised, by the name that `transformers` has for it; None if it is not.

    Args:
        values: of its config.
        place: for the message.

    Raises:
        InputError: `transformers` knows no such method, and would read the numbers as if they were weights.
    """
    stated = values.get(QUANTISATION)
    if stated is None:
        return None
    facts = stated if isinstance(stated, Mapping) else {}
    method = facts.get("quant_method")
    for bits in ("4bit", "8bit"):  # how bitsandbytes says it, sometimes without its name
        if facts.get(f"load_in_{bits}") is True:
            method = f"bitsandbytes_{bits}"
    if not isinstance(method, str) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise InputError(
            f"{place!r} is quantised by the method {method!r}, which transformers does not know; use the model in "
            "float32, bfloat16 or float16, or a GGUF file"
        )
    return method


def has_plain_layers(model: PreTrainedModel) -> bool:
    """Whether all projections of a model of a supported family, and its output layer, are plain."""
    whole: Any = model
    layers: list[nn.Module] = [whole.lm_head]
    for layer in whole.model.layers:
        layers += [getattr(layer.self_attn, name) for name in ATTENTION]
        layers += [getattr(layer.mlp, name) for name in GATED]
    return all(map(is_plain, layers))


def settle_type(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Gives the weights of a model that was dequantised, to a type of the method's own, the one that was asked for."""
    if has_plain_layers(model):
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)


def check_trainable(model: PreTrainedModel, what: str) -> None:
    """Raises InputError unless a model's weights can be read as numbers by `what`, which learns from them."""
    if not has_plain_layers(model):
        raise InputError(
            f"{what} reads the target's weights, which are quantised here; train with the model before it was "
            "quantised, and use what comes of it with this one too"
        )
