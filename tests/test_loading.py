"""`ltd.load`: what it makes of its arguments, and what it refuses."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import VOCABULARY
from transformers import AutoTokenizer, PretrainedConfig

import ltd
from ltd.common.assets import shipped_head
from ltd.common.files import cache_folder
from ltd.drafts.opening import LOOKUP, default_draft
from ltd.policy_choice import choose_policy, resolve_draft
from ltd.target import model
from ltd.target.model import read_config, tokenizer_fingerprint

Folder = Callable[[str], Path]


def static_tree() -> object:
    return choose_policy("static", lambda: None, torch.device("cpu")).policy


def head_with_fingerprint(tiny_head: Folder, out: Path, fingerprint: str) -> Path:
    shutil.copytree(tiny_head("llama"), out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "tokenizer_fingerprint": fingerprint}))
    return out


def test_the_usual_case(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = ltd.load(tiny_target("qwen2"), tiny_head("qwen2"), dtype="bfloat16", device="cpu")
    assert decoder.policy == static_tree()
    assert decoder.stop_ids == (2,)
    assert decoder.target.dtype == torch.bfloat16
    assert decoder.max_length == 256
    assert "hi" in decoder.tokenizer.decode(decoder.encode("hi"))


def test_the_targets_config_is_read_once(tiny_target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the draft, the policy and the model all depend on it."""
    read: list[str] = []

    def counted(place: str) -> PretrainedConfig:
        read.append(place)
        return read_config(place)

    monkeypatch.setattr(model, "read_config", counted)
    folder = tiny_target("llama")
    assert isinstance(ltd.load(folder, device="cpu").policy, ltd.Lookup) and read == [str(folder)]


@pytest.mark.parametrize("options", [{"draft": "none"}, {"policy": "none"}])
def test_plain_decoding(tiny_target: Folder, tiny_head: Folder, options: dict[str, str]) -> None:
    decoder = ltd.load(tiny_target("llama"), **{"draft": tiny_head("llama"), **options}, device="cpu")
    assert decoder.policy is None
    assert decoder.generate([5, 6], max_new_tokens=4).statistics.acceptance_length == 1.0


def test_plain_decoding_reads_no_head(tiny_target: Folder, tmp_path: Path) -> None:
    """Neither the shipped one, which does not fit, nor one that is damaged, nor one that is not there."""
    (tmp_path / "config.json").write_text("no JSON")
    for draft in (None, tmp_path, "/no/such/head"):
        decoder = ltd.load(tiny_target("llama"), draft, policy="none", device="cpu")
        assert decoder.draft is None and decoder.policy is None
        assert set(decoder.generate([5, 6], max_new_tokens=4).statistics.sizes) == {0}
    with pytest.raises(ltd.InputError, match="decides about a draft, and there is none"):
        decoder.generate([5, 6], policy=ltd.Static(1, 3))


def test_the_static_policy_by_name(tiny_target: Folder, tiny_head: Folder) -> None:
    decoder = ltd.load(tiny_target("llama"), tiny_head("llama"), policy="static", device="cpu")
    assert decoder.policy == static_tree()


def test_a_wrong_policy_is_refused_before_the_model_is_loaded(tiny_head: Folder, tmp_path: Path) -> None:
    with pytest.raises(ltd.InputError, match=r"policy\.json is missing"):
        ltd.load("/no/such/target", tiny_head("llama"), policy=tmp_path, device="cpu")


def test_a_policy_with_too_large_trees_is_refused(tiny_target: Folder, tiny_head: Folder) -> None:
    class Huge(ltd.Static):
        max_depth = 13

    with pytest.raises(ltd.InputError, match="depth 13"):
        ltd.load(tiny_target("llama"), tiny_head("llama"), policy=Huge(), device="cpu")


def test_the_tests_have_a_cache_of_their_own() -> None:
    assert cache_folder().is_relative_to(tempfile.gettempdir())


def test_threads_are_set(tiny_target: Folder) -> None:
    before = torch.get_num_threads()
    try:
        ltd.load(tiny_target("llama"), "none", threads=1, device="cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_head_for_the_same_tokenizer(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    head = head_with_fingerprint(tiny_head, tmp_path / "head", tokenizer_fingerprint(tokenizer, VOCABULARY))
    assert ltd.load(tiny_target("llama"), head, device="cpu").draft is not None


def test_a_head_for_another_tokenizer(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    head = head_with_fingerprint(tiny_head, tmp_path / "head", "0123456789abcdef")
    with pytest.raises(ltd.InputError, match="another tokenizer"):
        ltd.load(tiny_target("llama"), head, device="cpu")


def test_a_target_with_another_tokenizer_is_none_of_the_shipped_heads(
    tiny_target: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only has the sizes is looked up for, as any without a head."""
    target = tiny_target("llama")
    settings = json.loads((target / "config.json").read_text())
    made_for = {"vocab_size": settings["vocab_size"], "target_hidden_size": settings["hidden_size"]}
    fingerprint = tokenizer_fingerprint(AutoTokenizer.from_pretrained(target), settings["vocab_size"])
    for known, draft in ((fingerprint, None), ("0123456789abcdef", LOOKUP)):
        head = {**made_for, "tokenizer_fingerprint": known}
        monkeypatch.setattr("ltd.drafts.opening.read_config", lambda _, head=head: head)
        assert resolve_draft(target, None) == draft
    assert default_draft(read_config(target)) is None  # where the tokenizer is not known
    monkeypatch.setattr("ltd.drafts.opening.read_config", lambda _: {**made_for, "vocab_size": 7})
    assert resolve_draft(target, None) == LOOKUP


def test_the_shipped_head_fits_the_default_target_only(tiny_target: Folder) -> None:
    assert (shipped_head() / "model.safetensors").is_file()
    assert ltd.load(tiny_target("llama"), device="cpu").draft is None  # tokens are looked up instead
    with pytest.raises(ltd.InputError, match="head"):
        ltd.load(tiny_target("llama"), shipped_head(), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2.5}, "threads is 2.5, but must be a whole number"),
        ({"threads": "1"}, "threads is '1', but must be a whole number"),
        ({"dtype": "int4"}, "dtype"),
        ({"dtype": 7}, "dtype 7 is not supported; use auto"),
        ({"dtype": None}, "dtype None is not supported; use auto"),
        ({"dtype": np.dtype("float32")}, "dtype .* is not supported; use auto"),
        ({"device": 3}, "device is 3, but must be auto, cpu, cuda, cuda:N or a torch.device"),
        ({"device": 2.5}, "device is 2.5, but must be auto, cpu"),
        ({"max_length": 257}, "max_length 257"),
        ({"max_length": 1}, "max_length 1"),
        ({"max_length": 20.5}, "max_length is 20.5, but must be a whole number"),
        ({"max_length": "20"}, "max_length is '20', but must be a whole number"),
        ({"draft": "/no/such/head"}, "/no/such/head"),
        ({"draft": 3}, "draft is 3, but must be a text or a Path"),
        ({"draft": 3, "policy": "none"}, "draft is 3, but must be a text or a Path"),
        ({"draft": b"head"}, "draft is b'head', but must be a text or a Path"),
        ({"target": 5}, "target is 5, but must be a text or a Path"),
        ({"target": ["a"]}, r"target is \['a'\], but must be a text or a Path"),
        (
            {"policy": 5},
            'policy is 5, but must be a policy such as .*, the folder of a bundle, "static", "none" or None',
        ),
        ({"policy": ltd.Static}, "policy is <class .*, but must be a policy such as"),
    ],
)
def test_wrong_arguments(tiny_target: Folder, tiny_head: Folder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ltd.InputError, match=message):
        ltd.load(**{"target": tiny_target("llama"), "draft": tiny_head("llama"), "device": "cpu", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["target", "draft", "policy"])
def test_an_empty_name_is_not_the_current_folder(tiny_target: Folder, tiny_head: Folder, name: str) -> None:
    names = {"target": str(tiny_target("llama")), "draft": str(tiny_head("llama")), name: ""}
    with pytest.raises(ltd.InputError, match="the name of a file or folder is empty"):
        ltd.load(**names)


def test_no_gpu_here(tiny_target: Folder) -> None:
    with pytest.raises(ltd.InputError, match="no CUDA GPU"):
        ltd.load(tiny_target("llama"), "none", device="cuda")
