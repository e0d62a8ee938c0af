"""Every published layout, built as a small local folder, must load to the same head; broken ones must say why not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ltd.drafts.eagle3.files import load_head, save_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.errors import InputError

VOCAB, DRAFT_VOCAB, WIDTH = 40, 24, 12
LAYER_FIELDS = {
    "hidden_size": WIDTH, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
}  # fmt: skip


def make_head(words: int = DRAFT_VOCAB, **changes: Any) -> Eagle3Head:
    torch.manual_seed(1)
    values: dict[str, Any] = {
        "hidden_size": WIDTH, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 6, "vocab_size": VOCAB, "draft_vocab_size": words, "target_hidden_size": WIDTH,
        "feature_layers": (2, 4, 5),
        "rms_norm_eps": 1e-5, **changes,
    }  # fmt: skip
    head = Eagle3Head(Eagle3Config(**values), own_embedding=values["target_hidden_size"] != WIDTH)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.5)
        weight.data = weight.data.bfloat16().float()
    ids = torch.randperm(VOCAB)[:words].sort().values
    head.d2t = ids - torch.arange(words)
    head.t2d = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    return head.eval()


def tiny_target(layers: int = 8) -> LlamaForCausalLM:
    torch.manual_seed(2)
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
                    num_key_value_heads=1, vocab_size=VOCAB)
    )  # fmt: skip


def write(folder: Path, config: Any, tensors: dict[str, Tensor], *, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)
    return folder


def renamed(head: Eagle3Head, prefix: str, *without: str) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in head.state_dict().items() if name not in without}
    return {name.replace("layer.", prefix, 1) if name.startswith("layer.") else name: tensor
            for name, tensor in tensors.items()}  # fmt: skip


def assert_same(loaded: Eagle3Head, head: Eagle3Head) -> None:
    """Equal in config (but for provenance), mapping and every output."""
    assert loaded.config == head.config
    assert torch.equal(loaded.d2t, head.d2t)
    assert torch.equal(loaded.t2d, head.t2d)
    assert loaded.t2d.dtype == torch.bool
    assert loaded.d2t.dtype == torch.int64
    torch.manual_seed(3)
    features = torch.randn(1, 5, head.fc.in_features)
    embeddings, positions = torch.randn(1, 5, head.config.hidden_size), torch.arange(5)[None] + 3000

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2)

    for one, other in zip(
        *(_outputs(each, features, embeddings, positions, attend) for each in (loaded, head)), strict=True
    ):
        assert torch.equal(one, other)


def _outputs(head: Eagle3Head, features: Tensor, embeddings: Tensor, positions: Tensor, attend: Any) -> list[Tensor]:
    states = head(embeddings, head.fuse(features), positions, attend)
    return [states, head.logits(states)]


def load(folder: Path, **options: Any) -> Eagle3Head:
    return load_head(folder, torch.float32, "cpu", **options)


# --- our own layout -------------------------------------------------------------------------------------------------


def test_own_layout_round_trip(tmp_path: Path) -> None:
    head = make_head(target="some/model", tokenizer_fingerprint="abc", norm_output=True, fc_norm=True)
    save_head(head, tmp_path / "new" / "head", {"seconds": 3})
    assert_same(load(tmp_path / "new" / "head"), head)
    assert json.loads((tmp_path / "new" / "head" / "training.json").read_text()) == {"seconds": 3}
    assert sorted(file.name for file in (tmp_path / "new" / "head").iterdir()) == [
        "config.json", "model.safetensors", "training.json"
    ]  # fmt: skip
    stored = load_file(tmp_path / "new" / "head" / "model.safetensors")
    assert stored["fc.weight"].dtype == torch.bfloat16
    assert "embed_tokens.weight" not in stored


def test_dtype_applies_to_weights_only(tmp_path: Path) -> None:
    save_head(make_head(), tmp_path)
    head = load_head(tmp_path, torch.bfloat16, "cpu")
    assert head.fc.weight.dtype == torch.bfloat16
    assert head.d2t.dtype == torch.int64
    assert not head.training


# --- published layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_official_layout(tmp_path: Path, name: str) -> None:
    head = make_head(feature_layers=(2, 4, 5))
    config = {**LAYER_FIELDS, "architectures": ["LlamaForCausalLM"], "draft_vocab_size": DRAFT_VOCAB,
              "num_hidden_layers": 40}  # fmt: skip
    folder = write(tmp_path, config, renamed(head, "midlayer."), name=name)
    assert_same(load(folder, target=tiny_target(8)), head)  # 2, 8 // 2, 8 - 3
    assert_same(load(folder, feature_layers=(2, 4, 5)), head)
    with pytest.raises(InputError, match="names no feature layers; give feature_layers or the target"):
        load(folder)


def test_unreduced_vocabulary_without_mapping(tmp_path: Path) -> None:
    head = make_head(VOCAB)
    folder = write(tmp_path, LAYER_FIELDS, renamed(head, "midlayer.", "d2t", "t2d"))
    loaded = load(folder, feature_layers=(2, 4, 5))
    assert_same(loaded, head)
    assert loaded.t2d.all()
    assert not loaded.d2t.any()


def test_wider_draft_with_own_embedding(tmp_path: Path) -> None:
    head = make_head(target_hidden_size=10)
    assert head.embed_tokens is not None
    config = {**LAYER_FIELDS, "target_hidden_size": 10}
    loaded = load(write(tmp_path, config, renamed(head, "midlayer.")), feature_layers=(2, 4, 5))
    assert_same(loaded, head)
    assert loaded.embed_tokens is not None
    assert torch.equal(loaded.embed_tokens.weight, head.embed_tokens.weight)
    broken = write(tmp_path / "b", config, renamed(head, "midlayer.", "embed_tokens.weight"))
    with pytest.raises(InputError, match=r"lacks embed_tokens.weight, which it needs as its width 12 .* 10"):
        load(broken, feature_layers=(2, 4, 5))


def test_angelslim_layout(tmp_path: Path) -> None:
    head = make_head(rope_theta=1e6, rms_norm_eps=1e-6)
    config = {**LAYER_FIELDS, "architectures": ["Eagle3LlamaForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6,
              "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
              "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}  # fmt: skip
    folder = write(tmp_path, config, renamed(head, "midlayer."))
    assert_same(load(folder), head)
    assert load(folder, rope_theta=10000.0).config.rope_theta == 10000.0


def test_head_dim_is_read_off_the_tensors(tmp_path: Path) -> None:
    head = make_head(head_dim=10)  # 4 heads of 10 do not make a width of 12
    assert_same(load(write(tmp_path, LAYER_FIELDS, renamed(head, "midlayer.")), feature_layers=(2, 4, 5)), head)


def test_specforge_layout(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    head = make_head(rope_theta=5e5, rope_scaling=scaling)
    config = {**LAYER_FIELDS, "architectures": ["LlamaForCausalLMEagle3"], "norm_output": True,
              "rope_parameters": {"rope_theta": 5e5, **scaling}, "rope_theta": 1.0,
              "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 3, 4]},
              }  # fmt: skip
    tensors = {**renamed(head, "midlayer."), "embed_tokens.weight": torch.randn(VOCAB, WIDTH)}
    loaded = load(write(tmp_path, config, tensors))
    assert_same(loaded, head)
    assert loaded.embed_tokens is None  # equal widths: the target's own is safer
    with pytest.raises(InputError, match="no norm before its output layer"):
        load(write(tmp_path / "b", {**config, "norm_output": False}, tensors))


def test_specforge_unreduced_has_trivial_mapping(tmp_path: Path) -> None:
    head = make_head(VOCAB)
    folder = write(tmp_path, LAYER_FIELDS, renamed(head, "midlayer."))
    assert_same(load(folder, feature_layers=(2, 4, 5)), head)


@pytest.mark.parametrize("flag", ["norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"])
def test_speculators_layout(tmp_path: Path, flag: str) -> None:
    head = make_head(**{flag: True}, feature_layers=(2, 4, 5))
    config = {"architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3",
              "draft_vocab_size": DRAFT_VOCAB, "transformer_layer_config": LAYER_FIELDS, "target_hidden_size": None,
              flag: True,
              "eagle_aux_hidden_state_layer_ids": [2, 4, 5]}  # fmt: skip
    tensors = {**renamed(head, "layers.0."), "verifier_norm.weight": torch.ones(WIDTH),
               "verifier_lm_head.weight": torch.ones(VOCAB, WIDTH)}  # fmt: skip
    assert_same(load(write(tmp_path, config, tensors)), head)


def test_eagle31_flags_nested_in_eagle_config(tmp_path: Path) -> None:
    head = make_head(norm_before_fc=True, norm_output=True)
    nested = {"norm_before_fc": True, "norm_output": True, "eagle_aux_hidden_state_layer_ids": [2, 4, 5]}
    assert_same(load(write(tmp_path, {**LAYER_FIELDS, "eagle_config": nested}, renamed(head, "midlayer."))), head)


@pytest.mark.parametrize("prefix", ["layers.0.", "midlayer.", "model.layers.0."])
def test_nvidia_layout(tmp_path: Path, prefix: str) -> None:
    head = make_head()
    config = {**LAYER_FIELDS, "architectures": ["LlamaForCausalLMEagle3"],
              "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}  # fmt: skip
    tensors = {**renamed(head, prefix, "t2d"), "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    assert_same(load(write(tmp_path, config, tensors)), head)


def test_nvidia_without_output_layer_uses_the_targets(tmp_path: Path) -> None:
    head, target = make_head(VOCAB), tiny_target()
    head.lm_head.weight.data = target.lm_head.weight.data.clone()
    folder = write(tmp_path, LAYER_FIELDS, renamed(head, "layers.0.", "lm_head.weight", "d2t", "t2d"))
    assert_same(load(folder, target=target, feature_layers=(2, 4, 5)), head)
    with pytest.raises(InputError, match=r"lacks lm_head.weight"):
        load(folder, feature_layers=(2, 4, 5))


def test_attention_bias_without_output_bias(tmp_path: Path) -> None:
    head = make_head(attention_bias=True)
    head.layer.self_attn.o_proj.bias.data.zero_()
    folder = write(tmp_path, LAYER_FIELDS, renamed(head, "midlayer.", "layer.self_attn.o_proj.bias"))
    assert_same(load(folder, feature_layers=(2, 4, 5)), head)


@pytest.mark.parametrize(
    ("ids", "read"), [([1, 3, 4], (2, 4, 5)), ([2, 4, 5], (2, 4, 5)), ([24, 30, 36], (24, 30, 36))]
)
def test_layer_id_conventions(tmp_path: Path, ids: list[int], read: tuple[int, ...]) -> None:
    config = {**LAYER_FIELDS, "eagle_aux_hidden_state_layer_ids": ids}
    folder = write(tmp_path, config, renamed(make_head(), "midlayer."))
    assert load(folder).config.feature_layers == read
    assert load(folder, feature_layers=(7, 8, 9)).config.feature_layers == (7, 8, 9)


# --- what must be refused -------------------------------------------------------------------------------------------


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)


def test_other_families_are_refused(tmp_path: Path) -> None:
    tensors = renamed(make_head(), "layers.0.")
    eagle1 = {name: tensor for name, tensor in tensors.items() if "hidden_norm" not in name}
    refused(write(tmp_path / "1", LAYER_FIELDS, eagle1), "EAGLE-1 or EAGLE-2")
    griffin = {**tensors, "fc.fc.weight": torch.ones(2, 2)}
    refused(write(tmp_path / "2", LAYER_FIELDS, griffin), "GRIFFIN")
    config = {**LAYER_FIELDS, "speculators_model_type": "eagle"}
    refused(write(tmp_path / "3", config, tensors), "'eagle' draft")
    refused(write(tmp_path / "4", LAYER_FIELDS, {"x.weight": torch.ones(2)}), "fc.weight is missing")


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), r"lacks norm\.weight$"),
        (lambda t: t.update({"layers.1.mlp.up_proj.weight": torch.ones(2)}), r"does not have: layers\.1\.mlp\.up_proj"),
        (lambda t: t.update({"fc.weight_scale": torch.ones(1)}), "quantised heads are not supported"),
        (lambda t: t.update({"norm.weight": torch.ones(5)}), r"norm\.weight has shape \(5,\)"),
        (lambda t: t.update({"d2t": t["d2t"] + VOCAB}), "d2t leads to token"),
        (lambda t: t.update({"d2t": t["d2t"] - VOCAB}), "d2t leads to token -"),
        (lambda t: t.update({"d2t": torch.arange(DRAFT_VOCAB).neg()}), "several draft tokens"),
        (lambda t: t.update({"d2t": t["d2t"].float()}), "whole numbers"),
        (lambda t: t.update({"t2d": torch.ones(VOCAB, dtype=torch.bool)}), "t2d marks 40 tokens"),
        (lambda t: t.update({"t2d": torch.zeros(VOCAB, dtype=torch.bool)}), "t2d marks 0 tokens"),
    ],
)
def test_broken_tensors(tmp_path: Path, own: bool, change: Any, message: str) -> None:
    head = make_head()
    save_head(head, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) if own else {
        **LAYER_FIELDS, "eagle_aux_hidden_state_layer_ids": [2, 4, 5]
    }  # fmt: skip
    tensors = head.state_dict()
    change(tensors)
    refused(write(tmp_path, config, tensors), message)


def test_missing_mapping_of_a_reduced_vocabulary(tmp_path: Path) -> None:
    folder = write(tmp_path, LAYER_FIELDS, renamed(make_head(), "midlayer.", "d2t", "t2d"))
    refused(folder, "lacks d2t, though it knows only 24 of 40 words", feature_layers=(2, 4, 5))


def test_layer_count_must_fit(tmp_path: Path) -> None:
    tensors = renamed(make_head(), "midlayer.")
    config = {**LAYER_FIELDS, "eagle_aux_hidden_state_layer_ids": [2, 4]}
    refused(write(tmp_path, config, tensors), "names 2 feature layers, but reads 3")
    tensors["embed_tokens.weight"] = torch.ones(40, 12)
    refused(write(tmp_path, {**config, "target_hidden_size": 7}, tensors),
            "not a multiple of the target's width 7")  # fmt: skip


def test_pickled_code_is_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "config.json").write_text(json.dumps(LAYER_FIELDS))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"fc.weight": Trap()}, protocol=2))
    refused(tmp_path, "pickled code")
    torch.save({"fc.weight": Trap()}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pickled code")
    assert not (tmp_path / "executed").exists()


def test_unreadable_folders(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "config.json is missing")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "not valid JSON")
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"short")
    refused(tmp_path, "no JSON object")
    (tmp_path / "config.json").write_text(json.dumps(LAYER_FIELDS))
    refused(tmp_path, "cannot be read")
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "model.safetensors is missing$")
    (tmp_path / "head").mkdir()  # as in the folder of a training run
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "head" / "model.safetensors")
    refused(tmp_path, "model.safetensors is missing; give .*head, where there is one$")
    torch.save({"fc.weight": 3}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "not a tensor")


def test_config_without_sizes(tmp_path: Path) -> None:
    config = {name: value for name, value in LAYER_FIELDS.items() if name != "num_attention_heads"}
    folder = write(tmp_path, config, renamed(make_head(), "midlayer."))
    refused(folder, "does not say num_attention_heads; a whole number is needed", feature_layers=(2, 4, 5))


@pytest.mark.parametrize(
    ("name", "value"),
    [("rms_norm_eps", "small"), ("rope_theta", -1), ("target_hidden_size", "wide"), ("vocab_size", 4.5)],
)
def test_config_with_wrong_values(tmp_path: Path, name: str, value: Any) -> None:
    tensors = renamed(make_head(VOCAB), "midlayer.", "d2t", "t2d")
    folder = write(tmp_path, {**LAYER_FIELDS, name: value}, tensors)
    refused(folder, f"says {name} = {value!r}, but it must be ", feature_layers=(2, 4, 5))
