"""Keys of a config.json that a family does not use, or that only its cache uses: the text is that of `transformers`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_models import random_model
from oracle_draft import OracleDraft
from small_models import VOCABULARY
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from ltd.decoding.decoder import Decoder
from ltd.engine.cpu import Engine
from ltd.errors import InputError
from ltd.policies import Static
from ltd.target.target import Target
from ltd.target.transformers_layers import TransformersLayers

ON = {"use_sliding_window": True, "sliding_window": 8}
OFF = {"use_sliding_window": False, "sliding_window": 8}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
CASES: list[tuple[type, dict[str, Any]]] = [
    (LlamaConfig, {"sliding_window": 8}),  # the layers see all, what transformers keeps while it decodes does not
    (LlamaConfig, {"sliding_window": 8, "layer_types": MIXED}),
    (LlamaConfig, {"sliding_window": 8, "layer_types": ["full_attention"] * 3}),
    (LlamaConfig, {"attention_chunk_size": 8}),
    (LlamaConfig, {"partial_rotary_factor": 0.5}),
    (LlamaConfig, {"max_window_layers": 1, "use_sliding_window": True, "attn_logit_softcapping": 1.0}),
    (LlamaConfig, {"query_pre_attn_scalar": 3, "final_logit_softcapping": 0.5, "embedding_multiplier": 4.0}),
    (MistralConfig, {"sliding_window": 8}),
    (MistralConfig, {"sliding_window": None}),
    (MistralConfig, {"sliding_window": 8, "attention_chunk_size": 4}),
    (MistralConfig, {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 3}),
    (Qwen2Config, OFF),
    (Qwen2Config, {**ON, "max_window_layers": 1}),
    (Qwen2Config, {**ON, "layer_types": MIXED}),
    (Qwen2Config, {"attention_chunk_size": 8}),
    (Qwen2Config, {"attention_bias": False, "head_dim": 16}),
    (Qwen3Config, OFF),
    (Qwen3Config, {**ON, "max_window_layers": 0}),
    (Qwen3Config, {**ON, "layer_types": MIXED}),
    (Qwen3Config, {"attention_bias": True}),
]


def model_of(family: type, keys: dict[str, Any]) -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.5}
    return random_model(family(**{**sizes, **heads, "max_position_embeddings": 256, **keys}), seed=3)


@pytest.mark.parametrize("name", ["engine", "layers"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{'-'.join(case[1])}")
def test_a_key_means_what_it_means_to_transformers(case: tuple[type, dict[str, Any]], name: str) -> None:
    model = model_of(*case)
    prompt = torch.randint(5, 90, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    ids, new = torch.tensor([prompt]), 24
    options = {"do_sample": False, "max_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 30:].tolist()
    draft = OracleDraft(copy.deepcopy(model), [prompt], noise=0.5)
    forward = Engine(model) if name == "engine" else TransformersLayers(model)
    decoder = Decoder(Target(model, forward=forward), draft, Static(4, 12))
    for policy in ("none", None):
        assert decoder.generate(prompt, max_new_tokens=new, policy=policy).token_ids == expected


@pytest.mark.parametrize("keys", [
    {"layer_types": ["sliding_attention"] * 3},
    {"layer_types": ["conv"] * 3},
])  # fmt: skip
def test_layers_that_transformers_cannot_decode_with_are_refused(keys: dict[str, Any]) -> None:
    model = model_of(LlamaConfig, keys)
    for forward in (Engine, TransformersLayers):
        with pytest.raises(InputError, match="layer_types"):
            forward(copy.deepcopy(model))
