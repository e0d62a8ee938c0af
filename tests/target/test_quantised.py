"""Quantised targets: run by the layers of `transformers`, or refused in a sentence."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES
from toy_quantiser import ToyLinear, fp8_quantised, plain_again, toy_quantised
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import ltd
from ltd.custom_generate.export import export_model
from ltd.custom_generate.taken import is_emptied
from ltd.decoding.decoder import Decoder
from ltd.engine.cpu import Engine
from ltd.target.model import load_model
from ltd.target.quantised import check_trainable, has_plain_layers
from ltd.target.transformers_layers import TransformersLayers
from ltd.training.config import TrainDraftConfig
from ltd.training.train import train_draft

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(3)
PROMPTS = [torch.randint(5, 90, (count,), generator=GENERATOR).tolist() * 2 for count in (4, 20)]
NEW = 12


@pytest.fixture(scope="module")
def toy(tiny_target: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """toy(family) → the folder of a quantised model."""
    place = tmp_path_factory.mktemp("quantised")
    return lambda family: (
        place / family if (place / family).exists() else toy_quantised(tiny_target(family), place / family)
    )


def by_transformers(model: PreTrainedModel) -> list[list[int]]:
    """The greedy answers of `transformers` to all prompts."""
    ids = [torch.tensor([prompt]) for prompt in PROMPTS]
    said = [model.generate(i, attention_mask=torch.ones_like(i), max_new_tokens=NEW, do_sample=False) for i in ids]
    return [answer[0, prompt.shape[1] :].tolist() for answer, prompt in zip(said, ids, strict=True)]


def by_ltd(decoder: Decoder) -> list[list[int]]:
    """The same by ltd."""
    return [decoder.generate(prompt, max_new_tokens=NEW).token_ids for prompt in PROMPTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_that_of_the_quantised_model(toy: Folder, tiny_head: Folder, tmp_path: Path, family: str) -> None:
    """As `transformers` generates with it, and as the engine does with its weights made plain by other code."""
    reference = AutoModelForCausalLM.from_pretrained(toy(family), dtype=torch.float32).eval()
    assert isinstance(reference.model.layers[3].mlp.up_proj, ToyLinear)
    expected = by_transformers(reference)
    decoder = ltd.load(toy(family), tiny_head(family), dtype="float32", policy=ltd.Static(3, 12))
    assert isinstance(decoder.target.forward, TransformersLayers)
    assert by_ltd(decoder) == expected
    assert decoder.last_statistics.sizes[:3] == [12] * 3
    projections = [layer.self_attn.q_proj for layer in decoder.target.model.model.layers]
    assert all(isinstance(each, ToyLinear) and each.weight.dtype == torch.int8 for each in projections)
    plain = ltd.load(plain_again(toy(family), tmp_path / "plain"), tiny_head(family), dtype="float32")
    assert isinstance(plain.target.forward, Engine)
    assert by_ltd(plain) == expected


@pytest.mark.parametrize("draft", ["lookup", "none"])
def test_without_a_head(toy: Folder, draft: str) -> None:
    decoder = ltd.load(toy("llama"), draft, dtype="float32")
    assert by_ltd(decoder) == by_transformers(AutoModelForCausalLM.from_pretrained(toy("llama"), dtype=torch.float32))


def test_bfloat16_stays_bfloat16(toy: Folder, tiny_head: Folder) -> None:
    decoder = ltd.load(toy("llama"), tiny_head("llama"), dtype="bfloat16", policy=ltd.Static(2, 8))
    assert decoder.target.dtype == torch.bfloat16 and not has_plain_layers(decoder.target.model)
    assert len(by_ltd(decoder)[0]) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_is_dequantised_where_there_is_no_gpu_and_the_engine_has_it(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, dtype: torch.dtype
) -> None:
    quantised = fp8_quantised(tiny_target("llama"), tmp_path / "fp8")
    plain = plain_again(quantised, tmp_path / "plain")
    loaded = load_model(quantised, dtype, CPU).model
    expected = {
        name: value.to(torch.bfloat16).to(dtype) if "_proj" in name else value.to(dtype)
        for name, value in AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).state_dict().items()
    }
    assert {name: value.dtype for name, value in loaded.named_parameters()} == dict.fromkeys(expected, dtype)
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=2**-7, atol=0)
    decoder = ltd.load(quantised, tiny_head("llama"), dtype=dtype, policy=ltd.Static(2, 8))
    assert isinstance(decoder.target.forward, Engine)
    said = by_ltd(decoder)
    assert said == by_ltd(ltd.load(quantised, "none", dtype=dtype))
    if dtype == torch.float32:
        assert said == by_transformers(loaded)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes")
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(tiny_target: Folder, tiny_head: Folder, tmp_path: Path, bits: int) -> None:
    """8 bits without a threshold: with one, a row's result depends on the outliers of the rows beside it."""
    from transformers import BitsAndBytesConfig

    kind: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    asked = BitsAndBytesConfig(**kind if bits == 4 else {"load_in_8bit": True, "llm_int8_threshold": 0.0})
    given: dict[str, Any] = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), quantization_config=asked, **given)
    shutil.copytree(tiny_target("llama"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model")
    expected = by_transformers(AutoModelForCausalLM.from_pretrained(tmp_path / "model", **given))
    decoder = ltd.load(tmp_path / "model", tiny_head("llama"), dtype="float32", policy=ltd.Static(2, 8))
    assert isinstance(decoder.target.forward, TransformersLayers) and by_ltd(decoder) == expected


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs the package torchao")
def test_torchao(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    given: dict[str, Any] = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    asked = TorchAoConfig(Int8WeightOnlyConfig())
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), quantization_config=asked, **given)
    shutil.copytree(tiny_target("llama"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model")
    expected = by_transformers(model)
    decoder = ltd.load(tmp_path / "model", tiny_head("llama"), dtype="float32", policy=ltd.Static(2, 8))
    assert isinstance(decoder.target.forward, TransformersLayers) and by_ltd(decoder) == expected
    with pytest.raises(ltd.InputError, match="q_proj is quantised"):
        generated(model, ltd.CustomGenerate(tiny_head("llama"), takes_weights=True))


def stating(source: Path, out: Path, **facts: Any) -> Path:
    """A model's folder whose config says that it is quantised."""
    shutil.copytree(source, out)
    values = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**values, "quantization_config": facts}))
    return out


@pytest.mark.parametrize("method", sorted(set(AUTO_QUANTIZATION_CONFIG_MAPPING) - {"toy"}))
def test_what_cannot_be_loaded_is_told_in_a_sentence(tiny_target: Folder, tmp_path: Path, method: str) -> None:
    """Every method of `transformers`, over files that are not quantised: its package is missing, or they do not fit."""
    more = {"bits": 4, "group_size": 16, "load_in_4bit": method == "bitsandbytes_4bit"}
    folder = stating(tiny_target("llama"), tmp_path / "model", quant_method=method, **more)
    try:
        model = load_model(folder, torch.float32, CPU).model
    except ltd.InputError as error:
        said = str(error)
    else:
        said = None
    if said is not None:
        assert said.startswith(("cannot load the model in", "the weights in")) and "\n" not in said
    elif has_plain_layers(model):  # the method takes plain weights for what they are
        kept = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).state_dict()
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    else:  # bitsandbytes, where it is installed, has layers of its own for them
        assert method.startswith("bitsandbytes")


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ quantized model requires optimum"),
        ({"quant_method": "awq", "bits": 4}, "AWQ quantized model requires gptqmodel"),
        ({"quant_method": "magic"}, "quantised by the method 'magic', which transformers does not know"),
        ({"bits": 4}, "quantised by the method None"),
        ({"quant_method": ["gptq"]}, "quantised by the method"),
    ],
)
def test_methods_that_are_missing(tiny_target: Folder, tmp_path: Path, facts: Any, complaint: str) -> None:
    if facts.get("quant_method") in ("gptq", "awq") and importlib.util.find_spec("gptqmodel") is not None:
        pytest.skip("gptqmodel is installed")
    with pytest.raises(ltd.InputError, match=complaint):
        ltd.load(stating(tiny_target("llama"), tmp_path / "model", **facts), "none")


def test_a_config_that_asks_for_more_than_packed_weights_could_hold(toy: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy("llama"), folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "intermediate_size": 2**20}))
    with pytest.raises(ltd.InputError, match="asks for 8 layers"):
        ltd.load(folder, "none")


def test_several_processes_do_not_share_one(toy: Folder) -> None:
    def read(*_: object) -> PreTrainedModel:
        raise AssertionError("weights were read")

    with pytest.raises(ltd.InputError, match="is quantised, and such a one runs in one process only"):
        load_model(toy("llama"), torch.float32, CPU, read)


def generated(model: PreTrainedModel, custom: ltd.CustomGenerate | None) -> list[int]:
    """The greedy answer inside `transformers`."""
    ids = torch.tensor([PROMPTS[1]])
    given: dict[str, Any] = {} if custom is None else {"custom_generate": custom}
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, **given)
    return said[0].tolist()  # type: ignore[no-any-return]


def test_inside_transformers_the_weights_stay_where_they_are(toy: Folder, tiny_head: Folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy("llama"), dtype=torch.float32).eval()
    expected, before = generated(model, None), copy.deepcopy(model.state_dict())
    custom = ltd.CustomGenerate(tiny_head("llama"), policy=ltd.Static(2, 8))
    assert generated(model, custom) == generated(model, custom) == expected
    with pytest.raises(ltd.InputError, match="is a ToyLinear, which its configuration does not say"):
        generated(model, ltd.CustomGenerate(tiny_head("llama"), takes_weights=True))
    assert not is_emptied(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_served_folder_keeps_the_weights(
    toy: Folder, tiny_head: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    given: dict[str, Any] = {"draft": tiny_head("llama"), "policy": "static", "dtype": "float32"}
    with pytest.raises(ltd.InputError, match=r"is quantised, so no engine can take its weights .* --keep-weights"):
        export_model(toy("llama"), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    export_model(toy("llama"), tmp_path / "out", takes_weights=False, **given)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    plain = AutoModelForCausalLM.from_pretrained(toy("llama"), dtype=torch.float32).eval()
    assert generated(model, None) == generated(plain, None)


def test_nothing_is_learned_from_quantised_weights(toy: Folder, tiny_target: Folder, tmp_path: Path) -> None:
    with pytest.raises(ltd.InputError, match="ltd train-draft reads the target's weights, which are quantised"):
        train_draft(TrainDraftConfig(out=tmp_path / "out", target=str(toy("llama")), dtype="float32"))
    check_trainable(load_model(tiny_target("llama"), torch.float32, CPU).model, "it")
