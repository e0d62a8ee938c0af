"""A user's model belongs to the user: it may be changed between calls, and used by other threads during one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd
from ltd.target.transformers_layers import ATTENTION

Folder = Callable[[str], Path]
IDS = torch.tensor([[83, 33, 80, 48, 61, 57]])
OPTIONS: dict[str, Any] = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "eos_token_id": None}


@pytest.fixture
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


def answer(model: PreTrainedModel, custom: ltd.CustomGenerate | None = None, new: int = 20) -> list[int]:
    more = {} if custom is None else {"custom_generate": custom}
    return model.generate(IDS, max_new_tokens=new, **OPTIONS, **more)[0].tolist()


def other_embedding(model: Any) -> None:
    model.set_input_embeddings(nn.Embedding(model.config.vocab_size, model.config.hidden_size))


def other_output(model: Any) -> None:
    model.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)


@pytest.mark.parametrize("change", [other_embedding, other_output])
def test_exchanged_parts_are_seen(model: PreTrainedModel, tiny_head: Folder, change: Callable[[Any], None]) -> None:
    custom = ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    assert answer(model, custom) == answer(model)
    decoder = custom.decoder
    torch.manual_seed(0)
    change(model)
    assert answer(model, custom) == answer(model)
    assert custom.decoder is not decoder
    if change is other_embedding:
        assert custom.decoder.draft.embedding is model.get_input_embeddings()


def test_another_type_between_calls(tiny_target: Folder, tiny_head: Folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.bfloat16).eval()
    custom = ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    answer(model, custom)
    for kind in (torch.float32, torch.bfloat16, torch.float32):
        model.to(kind)
        said = answer(model, custom)
        assert custom.decoder is not None and custom.decoder.target.dtype == kind
        if kind == torch.float32:
            assert said == answer(model)
    decoder = custom.decoder
    answer(model, custom)
    assert custom.decoder is decoder  # nothing changed, so nothing is read again


def test_two_models_take_turns_in_one_object(tiny_target: Folder, tiny_head: Folder) -> None:
    models = [AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval() for _ in range(2)]
    models[1].model.layers[0].mlp.down_proj.weight.data.neg_()
    expected = [answer(model) for model in models]
    assert expected[0] != expected[1]
    custom = ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    for _ in range(2):
        assert [answer(model, custom) for model in models] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda model: answer(model, custom), models * 4)) == expected * 4


def test_generate_in_another_thread(model: PreTrainedModel, tiny_head: Folder) -> None:
    custom = ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    expected, over, said = answer(model), threading.Event(), []

    def speculate() -> None:
        while not over.is_set():
            said.append(answer(model, custom))

    thread = threading.Thread(target=speculate)
    thread.start()
    try:
        plain = [answer(model) for _ in range(6)]
    finally:
        over.set()
        thread.join()
    assert plain == [expected] * 6
    assert said and all(each == expected for each in said)


def test_the_model_is_its_own_in_the_middle_of_a_forward(model: PreTrainedModel, tiny_head: Folder) -> None:
    """A hook of the user's runs within our forward too, and finds the model as it was; also in another thread."""
    expected, seen, inside = answer(model, new=4), [], threading.local()

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if not getattr(inside, "busy", False):
            inside.busy = True
            implementation = model.config._attn_implementation
            seen.append((implementation != ATTENTION, answer(model, new=4) == expected))
            inside.busy = False

    handle = model.model.layers[2].register_forward_hook(look)
    assert answer(model, ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8)), new=4) == expected
    handle.remove()
    assert len(seen) > 1 and set(seen) == {(True, True)}
