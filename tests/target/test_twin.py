"""A twin computes what its model computes, also after changes; a model that does not call our attention is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.target.target import Target
from ltd.target.transformers_layers import ATTENTION
from ltd.target.twin import twin_of

Folder = Callable[[str], Path]
PROMPT = [5, 9, 14, 40, 77]


@pytest.fixture
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


def text(model: PreTrainedModel) -> list[int]:
    """The greedy text of `transformers`."""
    output = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    return output[0, len(PROMPT) :].tolist()


def ours(decoder: Decoder) -> list[int]:
    return decoder.generate(PROMPT, max_new_tokens=20, stop_token_ids=()).token_ids


class Adapted(nn.Module):
    """A linear layer with a low-rank addition."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.scaling, self.is_on = base, {"default": 2.0}, True
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        base: torch.Tensor = self.base(states)
        return base + self.scaling["default"] * self.up(self.down(states)) if self.is_on else base


class Negative(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return -weight


def replaced_layer(model: Any) -> None:
    model.model.layers[2].mlp = type(model.model.layers[2].mlp)(model.config).requires_grad_(False)


def adapter(model: Any) -> None:
    attention = model.model.layers[3].self_attn
    attention.q_proj = Adapted(attention.q_proj)


def switched_adapter(model: Any) -> None:
    adapter(model)
    model.model.layers[3].self_attn.q_proj.is_on = False


def values(model: Any) -> None:
    model.model.layers[0].mlp.down_proj.weight.data.neg_()


def new_parameter(model: Any) -> None:
    projection = model.model.layers[0].mlp.down_proj
    projection.weight = nn.Parameter(-projection.weight.data)


def parametrisation(model: Any) -> None:
    parametrize.register_parametrization(model.model.layers[0].mlp.down_proj, "weight", Negative())


def steering(model: Any) -> None:
    model.model.layers[4].register_forward_hook(lambda module, inputs, output: output + 0.5)


def output_layer(model: Any) -> None:
    model.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=True)


def skipped_layers(model: Any) -> None:
    del model.model.layers[5:]
    model.config.num_hidden_layers = 5


def wrapped_by_partial(model: Any) -> None:
    layer = model.model.layers[1]

    def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        return module._old_forward(*args, **kwargs) + 0.25

    layer._old_forward = layer.forward
    layer.forward = functools.update_wrapper(functools.partial(forward, layer), layer.forward)


CHANGES = [
    replaced_layer, adapter, switched_adapter, values, new_parameter, parametrisation, steering, output_layer,
    skipped_layers, wrapped_by_partial,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_decoder_follows_its_model(model: PreTrainedModel, change: Callable[[Any], None]) -> None:
    decoder = Decoder(Target(model))
    before = text(model)
    assert ours(decoder) == before
    torch.manual_seed(5)
    change(model)
    if change is skipped_layers:  # the cache of a session has its layers
        decoder = Decoder(Target(model))
    after = text(model)
    assert ours(decoder) == after
    assert text(model) == after


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_shares_all_weights_and_nothing_else(family: str, tiny_target: Folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target(family), dtype=torch.float32).eval()
    implementation = model.config._attn_implementation
    twin = twin_of(model, ATTENTION)
    assert twin.config is not model.config
    assert (twin.config._attn_implementation, model.config._attn_implementation) == (ATTENTION, implementation)
    own, theirs = dict(twin.named_modules()), dict(model.named_modules())
    assert own.keys() == theirs.keys()
    assert not {id(module) for module in own.values()} & {id(module) for module in theirs.values()}
    for name, module in own.items():
        assert type(module) is type(theirs[name])
        assert getattr(module, "config", twin.config) is twin.config
    for kind in ("named_parameters", "named_buffers"):
        shared, given = dict(getattr(twin, kind)()), dict(getattr(model, kind)())
        assert shared.keys() == given.keys()
        assert all(shared[name] is given[name] for name in shared)
    twin.model.layers[0].register_forward_hook(lambda *_: None)
    twin.model.layers[0].register_buffer("own", torch.zeros(1))
    assert not model.model.layers[0]._forward_hooks and "own" not in dict(model.model.layers[0].named_buffers())


def test_modules_in_lists_are_twins_as_well(model: PreTrainedModel) -> None:
    body: Any = model.model
    body.by_name, body.in_order = {"first": body.layers[0]}, [body.layers[1], 7]
    body.norm.ask = body.layers[0].forward
    twin: Any = twin_of(model, ATTENTION)
    assert twin.model.by_name["first"] is twin.model.layers[0]
    assert twin.model.in_order == [twin.model.layers[1], 7]
    assert twin.model.norm.ask.__self__ is twin.model.layers[0]
    assert body.in_order[0] is body.layers[1]


def test_a_compiled_model_is_run_as_it_was_written(model: PreTrainedModel) -> None:
    expected = text(model)

    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("the model itself was run")

    model._compiled_call_impl = broken
    assert ours(Decoder(Target(model))) == expected


def wrapped_by_closure(model: Any) -> None:
    inner = model.model.layers[1].forward
    model.model.layers[1].forward = lambda *args, **kwargs: inner(*args, **kwargs)


def attention_replaced(model: Any) -> None:
    class Nothing(nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
            return hidden_states, None

    model.model.layers[7].self_attn = Nothing()


def a_layer_twice(model: Any) -> None:
    model.model.layers[3] = model.model.layers[2]


@pytest.mark.parametrize("change", [wrapped_by_closure, attention_replaced, a_layer_twice])
def test_a_model_that_does_not_call_our_attention_is_refused(
    model: PreTrainedModel, change: Callable[[Any], None]
) -> None:
    decoder = Decoder(Target(model))
    ours(decoder)
    change(model)
    with pytest.raises(InputError, match="once in each of its 8 layers"):
        ours(decoder)
