"""The files of a chain draft: round trip, `transformers`' view of them, damage, and drafts of other targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chain_drafts import save_draft, small_draft
from small_models import FAMILIES, VOCABULARY
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ltd.chains.draft import ChainDraft
from ltd.chains.model_files import chain_for_transformers, read_chain
from ltd.engine.cpu import Engine
from ltd.errors import InputError
from ltd.target.model import tokenizer_fingerprint
from ltd.target.target import Target

Folder = Callable[[str], Path]
WORDS = torch.tensor([3, 90, 7, 41, 0, 66, 95])


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.fixture
def draft_folder(tiny_target: Folder, tmp_path: Path) -> Path:
    return save_draft(small_draft(load(tiny_target("llama")), (0, 7), 0.1), WORDS, tmp_path / "draft")


def test_round_trip(tiny_target: Folder, tmp_path: Path) -> None:
    draft = small_draft(load(tiny_target("llama")), (2, 5, 6), 0.1)
    files = read_chain(save_draft(draft, WORDS, tmp_path / "draft", "abc"))
    assert files.facts.tokenizer_fingerprint == "abc"
    assert files.facts.layers_of_target == (0, 1, 2)
    assert files.facts.words == len(WORDS)
    assert files.words is not None
    assert files.words.dtype == torch.int64
    assert files.words.tolist() == WORDS.tolist()
    assert files.config.num_hidden_layers == 3
    assert files.config.rope_parameters == draft.config.rope_parameters
    kept = {name: tensor for name, tensor in draft.state_dict().items() if "embed_tokens" not in name}
    del kept["lm_head.weight"]
    assert files.tensors.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(files.tensors[name], tensor.bfloat16()), name
    assert json.loads((tmp_path / "draft" / "training.json").read_text()) == {"seconds": 1}


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_to_run_a_draft_agree(
    family: str, words: torch.Tensor | None, tiny_target: Folder, tmp_path: Path
) -> None:
    """What the engine says step by step is what the plain model says at once, on the target's own embedding."""
    model, reference = load(tiny_target(family)), load(tiny_target(family))
    folder = save_draft(small_draft(model, (1, 6), 0.2), words, tmp_path / "draft")
    plain = chain_for_transformers(folder, reference)
    assert plain.get_input_embeddings() is reference.get_input_embeddings()
    assert plain.get_output_embeddings() is reference.get_output_embeddings()
    draft = ChainDraft.load(folder, Target(model, (), Engine(model)))
    tokens = torch.randint(VOCABULARY, (40,)).tolist()
    with torch.no_grad():
        output = plain(torch.tensor([tokens]), output_hidden_states=True)
    logits, states = output.logits[0], output.hidden_states[-1][0]
    if words is not None:
        logits = logits[:, words]
    with torch.inference_mode():
        session = draft.start(len(tokens))
        session.read(tokens[:30])
        for place in range(30, 40):
            step = session.step([tokens[place]])
            torch.testing.assert_close(step.logits, logits[place], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(step.state, states[place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rewound_draft_is_as_if_it_had_never_read_on(
    dtype: torch.dtype, draft_folder: Path, tiny_target: Folder
) -> None:
    model = load(tiny_target("llama"), dtype)
    draft = ChainDraft.load(draft_folder, Target(model, (), Engine(model)))
    with torch.inference_mode():
        session = draft.start(20)
        session.read([5, 6, 7])
        session.read([9, 9, 9, 9])
        session.rewind(3)
        assert session.length == 3
        again = session.step([11, 12])
        once = draft.start(20).step([5, 6, 7, 11, 12])
    assert again.logits.dtype == dtype
    assert torch.equal(again.logits, once.logits)
    assert torch.equal(again.state, once.state)


def damage(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if kind == "format":
        config["ltd_chain"]["format"] = 99
    elif kind == "no entry":
        del config["ltd_chain"]
    elif kind == "family":
        config["model_type"] = "gpt2"
    elif kind == "words":
        config["ltd_chain"]["words"] = 5
    elif kind == "layers":
        config["num_hidden_layers"] = 1
    (folder / "config.json").write_text("{" if kind == "json" else json.dumps(config))
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "no weights":
        weights.unlink()


@pytest.mark.parametrize("kind", ["format", "no entry", "family", "words", "layers", "json", "truncated", "no weights"])
def test_damage_is_named(kind: str, draft_folder: Path, tiny_target: Folder) -> None:
    damage(draft_folder, kind)
    with pytest.raises(InputError, match="cannot be read as a chain draft"):
        chain_for_transformers(draft_folder, load(tiny_target("llama")))


def test_words_must_be_different_ids(tiny_target: Folder, tmp_path: Path) -> None:
    draft = small_draft(load(tiny_target("llama")), (0,), 0.0)
    for words in ([1, 1], [0, VOCABULARY], [-1, 3]):
        with pytest.raises(InputError, match="not different ids"):
            read_chain(save_draft(draft, torch.tensor(words), tmp_path / "draft"))


def test_a_folder_without_a_draft(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no chain draft in .*train-draft --kind chain"):
        read_chain(tmp_path)


def test_drafts_of_other_targets_are_refused(draft_folder: Path, tiny_target: Folder) -> None:
    model = load(tiny_target("qwen3"))
    with pytest.raises(InputError, match="model_type 'llama', not 'qwen3'"):
        chain_for_transformers(draft_folder, model)
    with pytest.raises(InputError, match="model_type 'llama', not 'qwen3'"):
        ChainDraft.load(draft_folder, Target(model, (), Engine(model)))


def test_drafts_for_other_tokenizers_are_refused(tiny_target: Folder, tmp_path: Path) -> None:
    model, tokenizer = load(tiny_target("llama")), AutoTokenizer.from_pretrained(tiny_target("llama"))
    small = small_draft(model, (0,), 0.0)
    target = Target(model, (), Engine(model))
    save_draft(small, None, tmp_path / "right", tokenizer_fingerprint(tokenizer, VOCABULARY))
    assert ChainDraft.load(tmp_path / "right", target, tokenizer).words is None
    with pytest.raises(InputError, match="made for another tokenizer"):
        ChainDraft.load(save_draft(small, None, tmp_path / "wrong"), target, tokenizer)


def test_a_target_without_the_engine_is_refused(draft_folder: Path, tiny_target: Folder) -> None:
    with pytest.raises(InputError, match="CPU engine"):
        ChainDraft.load(draft_folder, Target(load(tiny_target("llama"))))
