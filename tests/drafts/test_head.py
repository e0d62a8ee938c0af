"""The draft head against a plain re-implementation, and its rotary positions against transformers'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from head_reference import ReferenceHead
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head, Rotary, rotate
from ltd.errors import InputError

FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "attention_bias")


def small_config(**changes: Any) -> Eagle3Config:
    values: dict[str, Any] = {
        "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "vocab_size": 30, "draft_vocab_size": 17, "target_hidden_size": 10, "feature_layers": (0, 1, 3),
        "rms_norm_eps": 1e-5, "rope_theta": 500.0,
    }  # fmt: skip
    return Eagle3Config(**{**values, **changes})


def random_head(config: Eagle3Config) -> Eagle3Head:
    head = Eagle3Head(config).double()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return head


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2)


@settings(max_examples=40)
@given(
    flags=st.fixed_dictionaries({flag: st.booleans() for flag in FLAGS}),
    groups=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    states=st.integers(1, 4),
    length=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_forward_equals_reference(
    flags: dict[str, bool], groups: tuple[int, int], states: int, length: int, seed: int
) -> None:
    torch.manual_seed(seed)
    config = small_config(
        num_attention_heads=groups[0], num_key_value_heads=groups[1], feature_layers=tuple(range(states)), **flags
    )
    head = random_head(config)
    features = torch.randn(2, length, states * config.target_hidden_size, dtype=torch.float64)
    embeddings = torch.randn(2, length, config.hidden_size, dtype=torch.float64)
    positions = torch.randint(0, 5000, (2, length))
    fused = head.fuse(features)
    out = head(embeddings, fused, positions, causal)
    logits = head.logits(out)
    reference = ReferenceHead(config, dict(head.state_dict()))
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for row in range(2):
        expected_fused = reference.fuse(features[row])
        expected = reference.step(embeddings[row], expected_fused, positions[row], [], [], mask)
        torch.testing.assert_close(fused[row], expected_fused)
        # The head's angles are float32, the reference's float64: a position of 5000 costs about 1e-4.
        torch.testing.assert_close(out[row], expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(logits[row], reference.logits(out[row]))


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_matters(flag: str) -> None:
    torch.manual_seed(0)
    plain, changed = random_head(small_config()), random_head(small_config(**{flag: True}))
    changed.load_state_dict(plain.state_dict(), strict=False)
    features, embeddings = torch.randn(1, 4, 30).double(), torch.randn(1, 4, 12).double()
    positions = torch.arange(4)[None]
    a, b = (head(embeddings, head.fuse(features), positions, causal) for head in (plain, changed))
    assert not torch.allclose(a, b)


def test_normed_output_has_no_second_norm() -> None:
    torch.manual_seed(0)
    head = random_head(small_config(norm_output=True))
    states = torch.randn(1, 3, 12).double()
    torch.testing.assert_close(head.logits(states), head.lm_head(states))


SCALINGS = [
    None,
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
]  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_equals_transformers(scaling: dict[str, Any] | None) -> None:
    torch.manual_seed(1)
    theta, width, heads = 10000.0, 16, 3
    config = small_config(head_dim=width, rope_theta=theta, rope_scaling=scaling, max_position_embeddings=256)
    llama = LlamaConfig(
        hidden_size=48, num_attention_heads=heads, head_dim=width, max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": theta, **(scaling or {})},
    )  # fmt: skip
    positions = torch.tensor([[0, 1, 77, 255, 4096, 100_000]])  # far past max_position_embeddings: there is no table
    query, key = torch.randn(1, heads, 6, width), torch.randn(1, 1, 6, width)
    cosines, sines = LlamaRotaryEmbedding(llama)(query, positions)
    expected = apply_rotary_pos_emb(query, key, cosines, sines)
    mine = Rotary(config)(positions)
    torch.testing.assert_close(rotate(query, *mine), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(key, *mine), expected[1], rtol=1e-4, atol=1e-4)


def test_positions_stay_exact_in_bfloat16() -> None:
    config = small_config()
    exact, cast = Rotary(config), Eagle3Head(config).to(torch.bfloat16).layer.self_attn.rotary
    positions = torch.tensor([[5000, 5001]])
    assert torch.equal(exact(positions)[0], cast(positions)[0])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_positions_are_where_a_head_is_made(scaling: dict[str, Any] | None) -> None:
    with torch.device("meta"):
        head = Eagle3Head(small_config(rope_scaling=scaling))
    positions = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    assert [part.device.type for part in head.layer.self_attn.rotary(positions)] == ["meta"] * 2


def test_default_sizes_are_the_targets() -> None:
    target = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=9, num_attention_heads=6, num_key_value_heads=3,
        head_dim=8, vocab_size=99, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    )  # fmt: skip
    config = Eagle3Config.for_target(target, draft_vocab_size=50)
    assert config.feature_layers == (2, 4, 6)
    assert (config.hidden_size, config.intermediate_size, config.target_hidden_size) == (24, 40, 24)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 3, 8)
    assert (config.vocab_size, config.draft_vocab_size, config.rope_theta) == (99, 50, 123.0)
    assert not any(getattr(config, flag) for flag in FLAGS)


def test_config_survives_json() -> None:
    config = small_config(rope_scaling={"rope_type": "linear", "factor": 2.0}, target="some/model")
    assert Eagle3Config.from_dict({**config.to_dict(), "unrelated": 1}) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"draft_vocab_size": 31}, r"draft_vocab_size \(31\) exceeds vocab_size \(30\)"),
        ({"feature_layers": ()}, "feature_layers"),
        ({"feature_layers": (-1, 2)}, "feature_layers"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
    ],
)
def test_bad_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(**changes)


def test_incomplete_config_names_the_field() -> None:
    values = small_config().to_dict()
    del values["head_dim"]
    with pytest.raises(InputError, match="head_dim"):
        Eagle3Config.from_dict(values)
