"""A model of `transformers` whose weights are spread over processes by its tensor-parallel plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from ltd.engine.kv_cache import key_value_sizes
from ltd.errors import InputError
from ltd.target.locate import quiet_transformers
from ltd.target.stored import load_whole


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether `transformers` spread a model over processes when it was loaded."""
    return (getattr(model, "tp_size", None) or 1) > 1


def load_sharded(place: str, dtype: torch.dtype, count: int) -> PreTrainedModel:
    """This process's part of a causal LM; all processes load theirs at once.

    Args:
        place: folder or hub name.
        dtype: of the weights.
        count: how many processes there are, see `check_heads`.

    Raises:
        InputError: as `load_whole` does, or this `transformers` is too old.
        Anything else: that `transformers` raises at what it cannot read.
    """
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        plan = DistributedConfig(tp_size=count, tp_plan="auto")
    except (ImportError, TypeError) as error:
        raise InputError(f"this transformers cannot spread models over processes ({error}); use 5.23") from error
    with quiet_transformers():
        model: PreTrainedModel = load_whole(place, place, dtype=dtype, distributed_config=plan).eval()
    return model


def check_heads(config: PretrainedConfig, count: int) -> None:
    """Raises InputError unless the heads of a model can be divided among so many processes."""
    heads, (kv_heads, _) = config.num_attention_heads, key_value_sizes(config)
    if kv_heads % count or heads % count:
        fits = [number for number in range(2, kv_heads + 1) if kv_heads % number == 0 and heads % number == 0]
        advice = f"use {', '.join(map(str, fits))}" if fits else "it runs in one process only"
        raise InputError(
            f"the target has {heads} heads with {kv_heads} key/value heads, which cannot be divided among {count} "
            f"processes; {advice}"
        )


def local_cache_sizes(model: PreTrainedModel) -> tuple[int, int]:
    """Key/value heads of this process's part, and head_dim.

    Raises:
        InputError: the part is not one of whole heads with the queries that go with them.
    """
    kv_heads, head_dim = key_value_sizes(model.config)
    body: Any = model.model
    attention = body.layers[0].self_attn
    queries, keys = (len(local_part(layer.weight)) for layer in (attention.q_proj, attention.k_proj))
    if keys % head_dim or queries * kv_heads != keys * model.config.num_attention_heads:
        raise InputError(
            f"a process's part of this model has {queries / head_dim:g} heads with {keys / head_dim:g} key/value "
            "heads, which do not belong together; load it with the plan of transformers (tp_plan='auto')"
        )
    return keys // head_dim, head_dim


def local_part(weight: Tensor) -> Tensor:
    """This process's part of a weight; the weight itself, where it is not spread."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


@torch.no_grad()
def put_together(weight: Tensor) -> Tensor:
    """A weight of which every process has a part, put together; all processes must ask for it."""
    full: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return full.detach()
