"""Small models of every family in the engine."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from small_models import small_config
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.engine.cpu import Engine
from ltd.engine.kv_cache import KVCache

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_model(config: Any, seed: int = 0) -> PreTrainedModel:
    """A float32 model whose biases and norms are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@functools.cache
def family_model(family: str, dtype: torch.dtype) -> PreTrainedModel:
    return random_model(small_config(family)).to(dtype)


@functools.cache
def family_engine(family: str, dtype: torch.dtype) -> Engine:
    return Engine(copy.deepcopy(family_model(family, dtype)))


def new_cache(model: PreTrainedModel, batch: int, capacity: int = 256) -> KVCache:
    config = model.config
    sizes = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
    return KVCache(*sizes, model.dtype, model.device)
