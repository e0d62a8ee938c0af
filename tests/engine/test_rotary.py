"""Rotary positions of trees and of prompts that are read in parts, against `transformers` reading token by token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_models import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import VOCABULARY
from transformers import LlamaConfig, PreTrainedModel, Qwen3Config

from ltd.decoding.decoder import Decoder
from ltd.engine.cpu import Engine
from ltd.engine.forward import TreeBlock
from ltd.engine.rotary import ModelRotary, fresh
from ltd.errors import InputError
from ltd.policies import Static
from ltd.target import target as target_module
from ltd.target.target import Target
from ltd.target.transformers_layers import TransformersLayers

BORDER = 40
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 4 + [2.0] * 4}
ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {"factor": 4.0, "original_max_position_embeddings": BORDER, **FACTORS},
    "dynamic": {"factor": 4.0},
}
OF_TEXT = ["longrope", "dynamic"]


def config_of(kind: str, family: type = LlamaConfig, **more: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.5}
    limit = BORDER if kind == "dynamic" else 4 * BORDER
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPE[kind]}
    return family(**{**sizes, **heads, "max_position_embeddings": limit, "rope_parameters": rope, **more})


def module_of(kind: str) -> Any:
    model: Any = random_model(config_of(kind))
    return model.model.rotary_emb


@pytest.mark.parametrize("kind", ROPE)
@settings(max_examples=25)
@given(positions=st.lists(st.integers(0, 2 * BORDER), min_size=1, max_size=12))
def test_a_tree_is_placed_as_if_every_token_came_alone(kind: str, positions: list[int]) -> None:
    module = module_of(kind)
    places = torch.tensor([positions])
    rotary = ModelRotary(module, torch.float32)
    cosines, sines, rows = rotary.for_block(TreeBlock(torch.tensor([0]), places, None), 2 * BORDER + 1)
    for index, position in enumerate(positions):
        alone = fresh(module)(torch.empty(0), torch.tensor([[position]]))
        torch.testing.assert_close(cosines[rows[0, index]], alone[0][0, 0])
        torch.testing.assert_close(sines[rows[0, index]], alone[1][0, 0])


@pytest.mark.parametrize("kind", ROPE)
@settings(max_examples=25)
@given(length=st.integers(1, 2 * BORDER), chunk=st.integers(1, 2 * BORDER))
def test_a_prompt_in_parts_is_placed_as_a_whole(kind: str, length: int, chunk: int) -> None:
    module = module_of(kind)
    whole = fresh(module)(torch.empty(0), torch.arange(length)[None])
    rotary = ModelRotary(module, torch.float32)
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        block = TreeBlock.chain(torch.tensor([start]), end - start, read_with=length)
        cosines, sines, rows = rotary.for_block(block, 3 * BORDER)
        torch.testing.assert_close(cosines[rows[0]], whole[0][0, start:end])
        torch.testing.assert_close(sines[rows[0]], whole[1][0, start:end])


@pytest.mark.parametrize("kind", ROPE)
@pytest.mark.parametrize("capacity", [1, BORDER - 1, BORDER, BORDER + 1])
def test_a_cache_may_end_before_the_border(kind: str, capacity: int) -> None:
    """As nearly all do: models are made for thousands of tokens."""
    rotary, count = ModelRotary(module_of(kind), torch.float32), min(capacity, BORDER)
    cosines, sines, _ = rotary.for_block(TreeBlock.chain(torch.tensor([0]), 1), capacity)
    whole = module_of(kind)(torch.empty(0), torch.arange(count)[None])
    torch.testing.assert_close(cosines[:count], whole[0][0])
    torch.testing.assert_close(sines[:count], whole[1][0])


def test_what_a_module_has_read_before_does_not_matter() -> None:
    module = module_of("dynamic")
    block = TreeBlock.chain(torch.tensor([BORDER - 3]), 8)
    before = [part.clone() for part in ModelRotary(module, torch.float32).for_block(block, 64)[:2]]
    module(torch.empty(0), torch.tensor([[90]]))
    after = ModelRotary(module, torch.float32).for_block(block, 64)[:2]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_what_turns_only_a_part_of_a_head_is_refused() -> None:
    module = module_of("linear")
    module.inv_freq = module.inv_freq[:4]
    with pytest.raises(InputError, match="turn 8 of a head's 16"):
        ModelRotary(module, torch.float32)
    module.rope_type = "spiral"
    with pytest.raises(InputError, match="spiral"):
        ModelRotary(module, torch.float32)


def forward_of(name: str, model: PreTrainedModel) -> Engine | TransformersLayers:
    return Engine(copy.deepcopy(model)) if name == "engine" else TransformersLayers(model)


@pytest.mark.parametrize("name", ["engine", "layers"])
@pytest.mark.parametrize("length", [20, BORDER - 3, BORDER, BORDER + 30])
@pytest.mark.parametrize("kind", OF_TEXT)
def test_trees_and_parts_of_prompts_give_the_text_of_transformers(
    kind: str, length: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "PREFILL_CHUNK", 16)
    family = LlamaConfig if length % 2 else Qwen3Config
    model = random_model(config_of(kind, family, tie_word_embeddings=False), seed=5)
    prompt = torch.randint(5, 90, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    new = 24
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
    plain = copy.deepcopy(model)
    expected = plain.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, length:].tolist()
    body: Any = model.model
    state = {name: tensor.clone() for name, tensor in body.rotary_emb.named_buffers()}
    reached = body.rotary_emb.max_seq_len_cached
    decoder = Decoder(
        Target(model, forward=forward_of(name, model)),
        OracleDraft(copy.deepcopy(model), [prompt], noise=0.5),
        Static(5, 16),
    )
    decoder.max_length = length + new  # beyond the context limit, where `dynamic` begins to change
    for policy in ("none", None):
        assert decoder.generate(prompt, max_new_tokens=new, policy=policy).token_ids == expected
    assert decoder.last_statistics.cycles < new - 3  # some paths were longer than one token
    assert body.rotary_emb.max_seq_len_cached == reached
    assert all(torch.equal(tensor, state[name]) for name, tensor in body.rotary_emb.named_buffers())
