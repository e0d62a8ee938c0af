"""Inside `generate`: the model is the user's, so what was read of an earlier text counts only while it is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd
from ltd.decoding import reuse
from ltd.target import target as target_module

Folder = Callable[[str], Path]
CHUNK = 16
OPTIONS: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 12}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short prompts have several."""
    monkeypatch.setattr(target_module, "PREFILL_CHUNK", CHUNK)
    monkeypatch.setattr(reuse, "PREFILL_CHUNK", CHUNK)


@pytest.fixture
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


@pytest.fixture(params=["head", "lookup", "none"])
def custom(request: pytest.FixtureRequest, tiny_head: Folder) -> ltd.CustomGenerate:
    if request.param == "head":
        return ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    return ltd.CustomGenerate(request.param)


def prompt(length: int = 50) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


def answer(model: PreTrainedModel, ids: torch.Tensor, custom: ltd.CustomGenerate | None = None) -> torch.Tensor:
    more = {} if custom is None else {"custom_generate": custom}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS, **more)


def test_a_chat_goes_on(model: PreTrainedModel, custom: ltd.CustomGenerate) -> None:
    ids, reused = prompt(), []
    for _ in range(3):
        expected = answer(model, ids)
        assert torch.equal(answer(model, ids, custom), expected)
        reused.append(custom.last_statistics.reused_tokens)
        ids = torch.cat([expected, prompt(3)], dim=1)
    assert reused == [0, 48, 64]  # the whole chunks of prompts of 50 and 65 tokens


def test_sampled_text_is_that_without_reuse(model: PreTrainedModel, tiny_head: Folder) -> None:
    def sampled(custom: ltd.CustomGenerate) -> list[list[int]]:
        torch.manual_seed(3)
        ids, mask = prompt(), torch.ones_like(prompt())
        options = {**OPTIONS, "do_sample": True, "temperature": 0.8, "top_k": 20, "attention_mask": mask}
        return [model.generate(ids, custom_generate=custom, **options)[0].tolist() for _ in range(3)]

    folder, policy = tiny_head("llama"), ltd.Static(2, 8)
    reusing = ltd.CustomGenerate(folder, policy=policy)
    assert sampled(reusing) == sampled(ltd.CustomGenerate(folder, policy=policy, reuse_mib=0))
    assert reusing.last_statistics.reused_tokens == 48


def test_it_can_be_switched_off_and_on(model: PreTrainedModel) -> None:
    custom, ids = ltd.CustomGenerate("none", reuse_mib=0), prompt()
    for amount, expected in ((0, 0), (0, 0), (1, 0), (1, 48), (0, 0)):
        custom.reuse_mib = amount
        answer(model, ids, custom)
        assert custom.last_statistics.reused_tokens == expected


def train(model: Any) -> None:
    for parameter in model.model.layers[0].parameters():
        parameter.add_(0.1)


def write_data(model: Any) -> None:
    model.model.layers[1].self_attn.k_proj.weight.data.neg_()


def exchange_a_layer(model: Any) -> None:
    torch.manual_seed(7)
    model.model.layers[2].mlp.up_proj = nn.Linear(32, 48, bias=False)


def exchange_the_embedding(model: Any) -> None:
    torch.manual_seed(7)
    model.set_input_embeddings(nn.Embedding(VOCABULARY, 32))


def hook(model: Any) -> None:
    model.model.layers[2].mlp.register_forward_hook(lambda _, __, output: output * 2)


@pytest.mark.parametrize("change", [train, write_data, exchange_a_layer, exchange_the_embedding, hook])
def test_rows_of_a_model_that_was_changed_are_not_taken(
    model: PreTrainedModel, custom: ltd.CustomGenerate, change: Callable[[Any], None]
) -> None:
    ids = prompt()
    before = answer(model, ids, custom)
    with torch.no_grad():
        change(model)
    expected = answer(model, ids)
    assert not torch.equal(before, expected)
    assert torch.equal(answer(model, ids, custom), expected)
    assert custom.last_statistics.reused_tokens == 0
    assert torch.equal(answer(model, ids, custom), expected)
    assert custom.last_statistics.reused_tokens == (0 if change is hook else 48)
    if change is hook:
        assert custom.decoder is not None
        model.model.layers[2].mlp._forward_hooks.clear()
        assert torch.equal(answer(model, ids, custom), before)


def test_batches_with_padding(model: PreTrainedModel, custom: ltd.CustomGenerate) -> None:
    """Rows are told apart from their padding, so each finds its own text."""
    ids, mask = prompt(60).repeat(2, 1), torch.ones(2, 60, dtype=torch.long)
    ids[0, :20], mask[0, :20] = 2, 0
    options = {**OPTIONS, "attention_mask": mask, "pad_token_id": 2}
    expected = model.generate(ids, **options)
    for count in (0, 32 + 48):
        assert torch.equal(model.generate(ids, custom_generate=custom, **options), expected)
        assert custom.last_statistics.reused_tokens == count
