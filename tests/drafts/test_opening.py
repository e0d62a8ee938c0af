"""From a folder to a draft: what is checked, and that no target's own code is needed for it."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import VOCABULARY
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import ltd.drafts
from ltd.common.files import file_hash
from ltd.drafts import Origin
from ltd.drafts.eagle3.files import load_head
from ltd.drafts.opening import StoredDraft, find_head, head_hash, make_draft, read_draft, state_size
from ltd.errors import InputError

Folder = Callable[[str], Path]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_target: Folder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32).eval()


@pytest.fixture
def marked_head(tiny_head: Folder, tmp_path: Path) -> Path:
    """A head that says which tokenizer it was made for."""
    shutil.copytree(tiny_head("llama"), tmp_path / "head")
    file = tmp_path / "head" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_fingerprint": "right"}))
    return tmp_path / "head"


def read(folder: Path, model: PreTrainedModel, fingerprint: str | None = None) -> StoredDraft:
    return read_draft(folder, torch.float32, CPU, model=model, fingerprint=fingerprint)


def test_a_draft_knows_its_folder_its_hash_and_its_sizes(tiny_head: Folder, model: PreTrainedModel) -> None:
    folder = tiny_head("llama")
    config = json.loads((folder / "config.json").read_text())
    stored = read(folder, model)
    draft = stored.at_work(model.get_input_embeddings())
    assert stored.feature_layers == draft.feature_layers == tuple(config["feature_layers"])
    assert draft.state_size == state_size(folder) == config["hidden_size"]
    assert draft.origin is not None and draft.origin.folder == folder
    assert draft.origin.sha256 == head_hash(folder) == file_hash(folder / "model.safetensors") is not None


@pytest.mark.parametrize("layout", ["bin", "parts", "parts of bin"])
def test_weights_are_known_in_every_layout(
    tiny_head: Folder, model: PreTrainedModel, tmp_path: Path, layout: str
) -> None:
    """Published heads are one `.bin` mostly, or in parts; policies are made for them as for others."""
    tensors = load_file(tiny_head("llama") / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny_head("llama") / "config.json").read_bytes())
    names, count = sorted(tensors), 1 if layout == "bin" else 2
    files = []
    for number in range(count):
        part = {name: tensors[name] for name in names[number::count]}
        if layout == "parts":
            files.append(tmp_path / f"model-{number + 1:05d}-of-00002.safetensors")
            save_file(part, files[-1])
        else:
            files.append(tmp_path / ("pytorch_model.bin" if count == 1 else f"pytorch_model-{number}.bin"))
            torch.save(part, files[-1])
    known = read(tmp_path, model).at_work(model.get_input_embeddings()).origin
    assert known is not None and known.sha256 == head_hash(tmp_path) is not None
    assert (known.sha256 == file_hash(files[0])) is (count == 1)
    assert known.sha256 != head_hash(tiny_head("llama"))
    name = names[0]  # of a tensor in the first file, which is another now
    part = {key: tensors[key] + (key == name) for key in names[0::count]}
    save_file(part, files[0]) if layout == "parts" else torch.save(part, files[0])
    assert head_hash(tmp_path) not in (known.sha256, None)


def test_a_draft_from_no_folder_has_no_origin(tiny_head: Folder, model: PreTrainedModel, tmp_path: Path) -> None:
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    assert make_draft(head, model.get_input_embeddings()).origin is None
    assert head_hash(find_head("none")) is Origin(tmp_path).sha256 is None


@pytest.mark.parametrize("fingerprint", ["right", None])
def test_the_same_or_an_unknown_tokenizer_will_do(
    marked_head: Path, model: PreTrainedModel, fingerprint: str | None
) -> None:
    assert read(marked_head, model, fingerprint).head.config.tokenizer_fingerprint == "right"


def test_another_tokenizer_is_refused(marked_head: Path, model: PreTrainedModel) -> None:
    with pytest.raises(InputError, match="was trained for another tokenizer than the target's; use a head"):
        read(marked_head, model, "wrong")


def test_another_vocabulary_is_refused(tiny_head: Folder, model: PreTrainedModel) -> None:
    with pytest.raises(InputError, match="made for a vocabulary of 96, the target has 95"):
        read(tiny_head("llama"), model).at_work(nn.Embedding(VOCABULARY - 1, 32))


def test_a_folder_without_a_draft_is_told(tmp_path: Path, model: PreTrainedModel) -> None:
    for call in (lambda: read(tmp_path, model), lambda: state_size(tmp_path)):
        with pytest.raises(InputError, match=r"no draft head in .*config\.json is missing"):
            call()


def test_a_size_that_is_not_said_counts_as_none(tmp_path: Path) -> None:
    for text in ("{}", '{"hidden_size": "wide"}'):
        (tmp_path / "config.json").write_text(text)
        assert state_size(tmp_path) == 0


def test_names(tmp_path: Path) -> None:
    assert find_head("none") is None
    assert find_head("~/head") == Path.home() / "head"
    assert (find_head(None) or tmp_path).name.startswith("eagle3-")


def test_drafts_import_nothing_of_targets() -> None:
    files = sorted(Path(ltd.drafts.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith(("ltd.target", "ltd.decoding", "ltd.policies")) for name in names), file
