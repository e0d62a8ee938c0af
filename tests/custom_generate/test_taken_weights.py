"""`CustomGenerate(takes_weights=True)`: the engine in a model's place, and what can no longer be asked of the model."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES, with_activation
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd
from ltd.custom_generate.taken import is_emptied
from ltd.engine.cpu import Engine
from ltd.engine.packed_linear import can_pack

Folder = Callable[[str], Path]
IDS = torch.tensor([[83, 33, 80, 48, 61, 57]])
OPTIONS: dict[str, Any] = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "eos_token_id": None}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def taking(head: Path | str, policy: Any = None) -> ltd.CustomGenerate:
    return ltd.CustomGenerate(head, policy=policy or ltd.Static(2, 8), takes_weights=True)


def answer(model: PreTrainedModel, custom: ltd.CustomGenerate | None = None, **more: Any) -> list[int]:
    given = {**OPTIONS, **more} if custom is None else {**OPTIONS, **more, "custom_generate": custom}
    return model.generate(IDS, max_new_tokens=20, **given)[0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.3}])
def test_the_engine_says_what_the_model_said(
    tiny_target: Folder, tiny_head: Folder, family: str, more: dict[str, Any]
) -> None:
    model, custom = load(tiny_target(family)), taking(tiny_head(family))
    expected = answer(model, **more)
    assert [answer(model, custom, **more) for _ in range(2)] == [expected] * 2
    assert custom.decoder is not None and isinstance(custom.decoder.target.forward, Engine) and is_emptied(model)
    custom.policy = "none"
    assert answer(model, custom, **more) == expected
    assert set(custom.last_statistics.gains) == {1}
    custom.policy = ltd.Static(1, 3)
    assert answer(model, custom, **more) == expected
    assert set(custom.last_statistics.sizes) == {3}


@pytest.mark.parametrize("draft", ["lookup", "none"])
def test_without_a_head(tiny_target: Folder, draft: str) -> None:
    model, custom = load(tiny_target("llama")), ltd.CustomGenerate(draft, takes_weights=True)
    expected = answer(model)
    assert answer(model, custom) == answer(model, custom) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_text_is_that_of_ltd_load(tiny_target: Folder, tiny_head: Folder, dtype: torch.dtype) -> None:
    """To the bit, where numbers are short too: it is the same engine over the same weights."""
    decoder = ltd.load(tiny_target("llama"), tiny_head("llama"), dtype=dtype, policy=None)
    decoder.policy = ltd.Static(2, 8)
    expected = decoder.generate(IDS[0].tolist(), max_new_tokens=20, stop_token_ids=()).token_ids
    model = load(tiny_target("llama"), dtype)
    assert answer(model, taking(tiny_head("llama")))[IDS.shape[1] :] == expected


@pytest.mark.parametrize("takes_weights", [False, True])
@pytest.mark.parametrize("draft", ["head", "lookup", "none"])
def test_a_model_of_a_longer_type_is_refused_and_left_as_it_is(
    tiny_target: Folder, tiny_head: Folder, draft: str, takes_weights: bool
) -> None:
    model = load(tiny_target("llama"), torch.float64)
    expected = answer(model)
    named = tiny_head("llama") if draft == "head" else draft
    with pytest.raises(ltd.InputError, match="computes in float64, which a target cannot; load it in float32"):
        answer(model, ltd.CustomGenerate(named, takes_weights=takes_weights))
    assert answer(model) == expected


def test_what_would_read_the_weights_is_refused(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    model, custom = load(tiny_target("llama")), taking(tiny_head("llama"))
    said = answer(model, custom)
    uses: list[Callable[[], object]] = [
        lambda: model(IDS),
        lambda: answer(model),
        model.state_dict,
        lambda: model.save_pretrained(tmp_path),
        lambda: answer(model, ltd.CustomGenerate(tiny_head("llama"))),
        lambda: answer(model, taking(tiny_head("llama"))),
        lambda: answer(copy.deepcopy(model), ltd.CustomGenerate(tiny_head("llama"))),
    ]
    for use in uses:
        with pytest.raises(ltd.InputError, match=r"^an engine of ltd has this model's weights"):
            use()
    assert list(tmp_path.glob("*.safetensors")) == []
    assert answer(model, custom) == said


def test_one_object_has_one_models_weights(tiny_target: Folder, tiny_head: Folder) -> None:
    first, second, custom = load(tiny_target("llama")), load(tiny_target("llama")), taking(tiny_head("llama"))
    said = answer(first, custom)
    with pytest.raises(ltd.InputError, match="has the weights of another model"):
        answer(second, custom)
    assert answer(second) == said == answer(first, custom)
    first.to(torch.bfloat16)
    with pytest.raises(ltd.InputError, match="or its model was changed"):
        answer(first, custom)


class Adapter(nn.Module):
    """A linear layer with something added, as adapters have it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + 0.5


def add_adapter(model: Any) -> None:
    model.model.layers[1].self_attn.q_proj = Adapter(model.model.layers[1].self_attn.q_proj)


def add_hook(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda module, args, output: output)


def wrap_forward(model: Any) -> None:
    model.model.norm.forward = lambda states: states


def leave_on_meta(model: Any) -> None:
    model.lm_head.to("meta")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add_adapter, "q_proj is a Adapter, which its configuration does not say"),
        (add_hook, r"model\.layers\.1 has hooks"),
        (wrap_forward, r"model\.norm has hooks, or a forward of its own"),
        (leave_on_meta, "its weights are on cpu, meta, not on one device"),
    ],
)
def test_a_changed_model_keeps_its_weights(
    tiny_target: Folder, tiny_head: Folder, change: Callable[[Any], None], reason: str
) -> None:
    model = load(tiny_target("llama"))
    change(model)
    with pytest.raises(ltd.InputError, match=f"cannot be taken over: .*{reason}"):
        answer(model, taking(tiny_head("llama")))
    assert not is_emptied(model)
    if change is not leave_on_meta:
        assert answer(model, ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))) == answer(model)


def test_hidden_states_that_were_asked_for_are_no_change(tiny_target: Folder, tiny_head: Folder) -> None:
    model = load(tiny_target("llama"))
    model(IDS, output_hidden_states=True)
    expected = answer(model)
    assert answer(model, taking(tiny_head("llama"))) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layers_of_transformers_are_packed_and_not_saved(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, dtype: torch.dtype
) -> None:
    """The CPU engine runs silu alone; else the layers of `transformers` run, packed where torch can."""
    model = load(with_activation(tiny_target("llama"), tmp_path, "gelu"), dtype)
    custom = taking(tiny_head("llama"))
    answer(model, custom)
    assert custom.decoder is not None and not isinstance(custom.decoder.target.forward, Engine)
    assert answer(model, custom) == answer(model, custom)
    if can_pack(dtype):
        with pytest.raises(ltd.InputError, match=r"^an engine of ltd has this model's weights"):
            model.state_dict()
    else:
        assert model.state_dict()


def test_a_head_that_does_not_fit_is_told_and_takes_nothing(tiny_target: Folder, tmp_path: Path) -> None:
    model = load(tiny_target("llama"))
    with pytest.raises(ltd.InputError, match="there is no draft head"):
        answer(model, taking(tmp_path))
    assert not is_emptied(model) and model.state_dict()


def test_a_model_ends_with_what_decodes_it(tiny_target: Folder, tiny_head: Folder) -> None:
    model, custom = load(tiny_target("llama")), taking(tiny_head("llama"))
    answer(model, custom)
    gone = weakref.ref(model)
    del model, custom
    gc.collect()
    assert gone() is None


def test_the_argument_is_a_truth_value() -> None:
    with pytest.raises(ltd.InputError, match="takes_weights is 'yes', but must be True or False"):
        ltd.CustomGenerate(takes_weights="yes")  # type: ignore[arg-type]
