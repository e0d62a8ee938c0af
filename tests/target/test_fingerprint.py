"""Whether a model is as it was: every change that can change its keys and values is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_models import random_model
from small_models import small_config
from torch import nn
from transformers import PreTrainedModel

from ltd.target.fingerprint import fingerprint, values_of
from ltd.target.transformers_layers import TransformersLayers


@pytest.fixture
def model() -> PreTrainedModel:
    return random_model(small_config("llama"))


def layer(model: Any) -> Any:
    return model.model.layers[3]


def train_a_step(model: Any) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    optimiser.step()


def write_past_the_count(model: Any) -> None:
    """Which PyTorch does not count."""
    layer(model).mlp.up_proj.weight.data[3, 5] += 1e-6


def load_weights(model: Any) -> None:
    model.load_state_dict(copy.deepcopy(random_model(small_config("llama"), seed=1).state_dict()))


def exchange_a_module(model: Any) -> None:
    model.model.layers[3] = copy.deepcopy(layer(model))


def add_a_module(model: Any) -> None:
    layer(model).adapter = nn.Linear(2, 2)


def switch(model: Any) -> None:
    layer(model).self_attn.scaling *= 2


def replace_a_method(model: Any) -> None:
    forward = layer(model).mlp.forward
    layer(model).mlp.forward = lambda x: forward(x) * 2


def replace_it_in_the_class(model: Any) -> None:
    layer(model).mlp.__class__ = type("Other", (type(layer(model).mlp),), {"forward": lambda self, x: x})


def change_a_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(2)


def change_the_config(model: Any) -> None:
    model.config.rope_parameters["rope_theta"] = 7.0


def cast(model: Any) -> None:
    model.to(torch.bfloat16)


CHANGES = [
    train_a_step, write_past_the_count, load_weights, exchange_a_module, add_a_module, switch, replace_a_method,
    replace_it_in_the_class, change_a_buffer, change_the_config, cast,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(model: PreTrainedModel, change: Callable[[Any], None]) -> None:
    before = fingerprint(model)
    assert before is not None and before == fingerprint(model)
    with torch.enable_grad() if change is train_a_step else torch.no_grad():
        change(model)
    assert before != fingerprint(model) == fingerprint(model)


def test_use_is_no_change(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        model(ids)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4)
    assert before == fingerprint(model)


def test_what_hooks_do_is_not_known(model: PreTrainedModel) -> None:
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        handle = getattr(layer(model).mlp, register)(lambda *_: None)
        assert fingerprint(model) is None and TransformersLayers(model).state() is None
        handle.remove()
    assert fingerprint(model) is not None


def test_tensors_without_memory_are_not_known() -> None:
    with torch.device("meta"):
        assert fingerprint(nn.Linear(3, 3)) is None
    holder = nn.Module()
    holder.register_buffer("sparse", torch.eye(3).to_sparse())
    assert fingerprint(holder) is None


@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (0,), (64, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_any_size_and_type_can_be_compared(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    before = values_of(tensor)
    assert before == values_of(tensor)
    if tensor.numel():
        tensor.data.view(-1)[-1] = 1
        assert before != values_of(tensor)


def test_how_torch_computes_counts(model: PreTrainedModel) -> None:
    """Sums that are shared among other threads are rounded otherwise."""
    layers, threads = TransformersLayers(model), torch.get_num_threads()
    before = layers.state()
    try:
        torch.set_num_threads(threads + 1)
        assert before != layers.state()
    finally:
        torch.set_num_threads(threads)
    assert before == layers.state()
