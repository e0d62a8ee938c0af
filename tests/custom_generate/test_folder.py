"""Folders of `ltd export --to custom-generate`: what they hold, and that `transformers` decodes with ltd there."""

from __future__ import annotations

import copy
import gc
import json
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES
from streamers import Recorder
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)

import ltd
from ltd.cli.main import main
from ltd.common.assets import shipped_head
from ltd.common.version import DISTRIBUTION
from ltd.custom_generate import export
from ltd.custom_generate.call import CustomGenerate
from ltd.custom_generate.export import export_model, folder_of
from ltd.custom_generate.folder import KEPT, SERVER, FolderGenerate, as_answer
from ltd.custom_generate.taken import is_emptied
from ltd.engine.cpu import Engine
from ltd.policies import Learned
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policy_choice import setting_of
from ltd.target.model import NamedModel

Folder = Callable[[str], Path]
IDS = torch.tensor([[83, 33, 80, 48, 61, 57]])
OPTIONS: dict[str, Any] = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "max_new_tokens": 20}


@pytest.fixture(autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`transformers` copies code of models to a cache, which is not the user's own here."""
    place = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", place)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def exported(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> Callable[..., Path]:
    """exported(family, …) → a new folder of the tiny model of a family with its head, in float32."""

    def export(family: str = "llama", name: str = "out", **options: Any) -> Path:
        given = {"draft": tiny_head(family), "policy": "static", "dtype": "float32", **options}
        export_model(tiny_target(family), tmp_path / name, **given)
        return tmp_path / name

    return export


def load(folder: Path, trust: bool = True) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)


def decoding(model: PreTrainedModel) -> CustomGenerate:
    """What decodes a model of a folder."""
    (custom,) = vars(model)[KEPT].values()
    return custom


def answer(model: PreTrainedModel, **more: Any) -> list[int]:
    return model.generate(IDS, **{**OPTIONS, **more})[0].tolist()


def test_it_holds_links_to_the_model_and_says_how_it_decodes(
    exported: Callable[..., Path], tiny_target: Folder, tiny_head: Folder
) -> None:
    out, source = exported(), tiny_target("llama")
    assert {file.name for file in out.iterdir()} == {*(file.name for file in source.iterdir()), "custom_generate"}
    assert (out / "model.safetensors").readlink() == source.resolve() / "model.safetensors"
    assert (out / "custom_generate" / "head").readlink() == tiny_head("llama").resolve()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, out))
    assert after.pop("dtype") == "float32" and before.pop("dtype") is not None and before == after
    needed = (out / "custom_generate" / "requirements.txt").read_text().splitlines()
    assert needed[-1].startswith("transformers>=") and all(re.fullmatch(r"[\w-]+>=[\w.+]+", line) for line in needed)
    code = (out / "custom_generate" / "generate.py").read_text()
    assert len(code.splitlines()) == 5 and f"{str(out / 'custom_generate' / 'head')!r}, policy='static'" in code


def test_it_requires_the_package_by_the_name_that_pip_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {DISTRIBUTION: "0.1.0", "transformers": "5.0.0", "ltd": "9.9.9"}  # the last is somebody else's
    monkeypatch.setattr(export.metadata, "version", installed.__getitem__)
    assert list(export.requirements()) == ["ltd-decoding>=0.1.0", "transformers>=5.0.0"]


@pytest.mark.parametrize("family", FAMILIES)
def test_its_text_is_the_models_own(exported: Callable[..., Path], tiny_target: Folder, family: str) -> None:
    plain, model = load(tiny_target(family), trust=False), load(exported(family))
    for more in ({}, {"repetition_penalty": 1.3}, {"eos_token_id": list(range(3, 20))}):
        assert answer(model, **more) == answer(plain, **more)
    assert isinstance(decoding(model).decoder.target.forward, Engine)
    assert decoding(model).last_statistics.cycles > 0
    batch = torch.cat([IDS, IDS.flip(1)])
    options = {**OPTIONS, "attention_mask": torch.ones_like(batch)}
    assert torch.equal(model.generate(batch, **options), plain.generate(batch, **options))
    assert torch.equal(model.generate(inputs=batch, **options), plain.generate(batch, **options))


def test_named_in_a_call(exported: Callable[..., Path], tiny_target: Folder) -> None:
    """Of a model that was loaded elsewhere, which has its weights taken then, and of the folder's own."""
    out, expected = exported(), answer(load(tiny_target("llama"), trust=False))
    named: dict[str, Any] = {"custom_generate": str(out), "trust_remote_code": True}
    for folder in (tiny_target("llama"), out):
        model = load(folder)
        assert answer(model, **named) == expected
        assert is_emptied(model) and decoding(model).last_statistics.cycles > 0
    assert answer(model) == expected
    assert answer(load(out), custom_generate=CustomGenerate("none")) == expected


def test_without_trust_it_is_the_plain_model(exported: Callable[..., Path], tiny_target: Folder) -> None:
    model = load(exported(), trust=False)
    assert answer(model) == answer(load(tiny_target("llama"), trust=False))
    assert KEPT not in vars(model) and not is_emptied(model)


def test_sampling_follows_torchs_seed(exported: Callable[..., Path]) -> None:
    model, other = load(exported()), load(exported(name="other", policy="none"))

    def sample(model: PreTrainedModel, seed: int) -> list[int]:
        torch.manual_seed(seed)
        return answer(model, do_sample=True, temperature=1.2)

    said = sample(model, 1)
    assert sample(model, 1) == sample(other, 1) == said != sample(model, 2)


@pytest.mark.parametrize("in_config", [True, False])
def test_stop_strings(exported: Callable[..., Path], tiny_target: Folder, in_config: bool) -> None:
    plain, tokenizer = load(tiny_target("llama"), trust=False), AutoTokenizer.from_pretrained(tiny_target("llama"))
    options = {**OPTIONS, "max_new_tokens": 40, "eos_token_id": None}
    text = tokenizer.decode(plain.generate(IDS, **options)[0, 6:])
    asked = {"stop_strings": [text[9:11]]}
    given = {"attention_mask": OPTIONS["attention_mask"], "tokenizer": tokenizer}
    rest = {name: value for name, value in options.items() if name != "attention_mask"}
    given |= {"generation_config": GenerationConfig(**rest, **asked)} if in_config else {**rest, **asked}
    expected = plain.generate(IDS, **given)
    assert expected.shape[1] < 46
    model = load(exported())
    assert torch.equal(model.generate(IDS, **given), expected)
    assert not in_config or given["generation_config"].stop_strings == [text[9:11]]
    own = StoppingCriteriaList([StopStringCriteria(tokenizer, [text[3:5]])])
    assert model.generate(IDS, **given, stopping_criteria=own).shape[1] <= expected.shape[1]
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        model.generate(IDS, **{**given, "tokenizer": None})


def test_models_of_one_folder_have_nothing_in_common(exported: Callable[..., Path], tiny_target: Folder) -> None:
    out, expected = exported(), answer(load(tiny_target("llama"), trust=False))
    models = [load(out), load(out)]
    models.append(copy.deepcopy(models[0]))  # as loaded, and so with weights of its own
    for _ in range(2):
        assert [answer(model) for model in models] == [expected] * 3
    assert len({id(decoding(model)) for model in models}) == 3
    gone = [weakref.ref(model) for model in models]
    del models
    gc.collect()
    assert [each() for each in gone] == [None] * 3


def test_a_model_that_keeps_its_weights(exported: Callable[..., Path], tiny_target: Folder, tmp_path: Path) -> None:
    plain, model = load(tiny_target("llama"), trust=False), load(exported(takes_weights=False))
    assert answer(model) == answer(plain)
    assert torch.equal(model(IDS).logits, plain(IDS).logits)
    again = copy.deepcopy(model)
    assert KEPT not in vars(again) or not vars(again)[KEPT]
    assert answer(again) == answer(plain)
    model.save_pretrained(tmp_path / "saved")
    assert answer(load(tmp_path / "saved", trust=False)) == answer(plain)
    taken = load(exported(name="taken"))
    answer(taken)
    with pytest.raises(ltd.InputError, match="an engine of ltd has this model's weights"):
        taken(IDS)


def test_a_bundle_goes_along(
    exported: Callable[..., Path], tiny_target: Folder, tiny_head: Folder, tmp_path: Path
) -> None:
    setting = setting_of(ltd.load(tiny_target("llama"), tiny_head("llama"), dtype="float32"))
    assert setting is not None
    save_bundle(Bundle(Learned(setting, 2, (5,))), tmp_path / "bundle")
    out = exported(policy=tmp_path / "bundle")
    assert (out / "custom_generate" / "policy").readlink() == tmp_path.resolve() / "bundle"
    model = load(out)
    assert answer(model) == answer(load(tiny_target("llama"), trust=False))
    assert set(decoding(model).last_statistics.sizes) <= {0, 5}


def test_code_of_the_model_stays_behind(tiny_target: Folder, tmp_path: Path) -> None:
    """It would be run in the place of what is tested here, once remote code is trusted."""
    source = tmp_path / "model"
    source.mkdir()
    for file in tiny_target("llama").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text())
    own = {"AutoModelForCausalLM": "modeling.Other", "AutoConfig": "modeling.OtherConfig"}
    (source / "config.json").write_text(json.dumps({**config, "auto_map": own, "architectures": ["Other"]}))
    (source / "modeling.py").write_text("raise RuntimeError\n")
    (source / ".git").mkdir()
    export_model(source, tmp_path / "out", draft="lookup", dtype="float32")
    assert not {"modeling.py", ".git"} & {file.name for file in (tmp_path / "out").iterdir()}
    assert AutoConfig.from_pretrained(tmp_path / "out").architectures == ["LlamaForCausalLM"]
    assert answer(load(tmp_path / "out")) == answer(load(tiny_target("llama"), trust=False))


def test_nothing_is_overwritten_and_what_fails_leaves_nothing(
    exported: Callable[..., Path], tiny_target: Folder, tiny_head: Folder, tmp_path: Path
) -> None:
    out = exported()
    before = sorted(tmp_path.rglob("*"))
    refusals: list[tuple[dict[str, Any], str]] = [
        ({}, "is there already, and not empty"),
        ({"name": "a@b"}, "has an @ in it"),
        ({"name": "b", "policy": "unknown"}, "unknown policy 'unknown'"),
        ({"name": "b", "draft": tmp_path / "no"}, "there is no draft head in"),
        ({"name": "b", "draft": shipped_head()}, "was made for a target with vocab_size 49152"),
        ({"name": "b", "draft": "none"}, "takes no policy 'static'"),
        ({"name": "b", "dtype": "int8"}, "dtype 'int8' is not supported"),
        ({"name": "out/config.json/b"}, "File exists"),
    ]
    for options, message in refusals:
        with pytest.raises((ltd.InputError, FileExistsError), match=message):
            exported(**options)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    export_model(tiny_target("llama"), tmp_path / "empty", draft=tiny_head("llama"))
    assert (tmp_path / "empty" / "config.json").is_file() and out.is_dir()


def test_settings_that_no_call_could_honour_are_told_at_once(tiny_target: Folder, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for file in tiny_target("llama").iterdir():
        (source / file.name).symlink_to(file)
    (source / "generation_config.json").unlink()
    (source / "generation_config.json").write_text('{"num_beams": 4}')
    with pytest.raises(ltd.InputError, match=r"beam search \(num_beams 4\)"):
        export_model(source, tmp_path / "out", draft="lookup")
    (source / "generation_config.json").unlink()
    export_model(source, tmp_path / "out", draft="lookup")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_files_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    """Weights in pickles are asked for where there are no others."""
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        if f"*{Path(weights).suffix}" in allow_patterns:
            (tmp_path / weights).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    named = NamedModel("some/model")
    named.place = "some/model"  # as if the hub had said that it has it
    assert folder_of(named) == tmp_path and (tmp_path / weights).exists()
    assert asked == ["some/model"] * (1 if weights.endswith("safetensors") else 2)

    def refuse(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ltd.InputError, match="cannot have the files of 'some/model' from the hub: no route"):
        folder_of(named)


def test_a_moved_folder_says_what_is_missing(exported: Callable[..., Path], tmp_path: Path) -> None:
    exported().rename(tmp_path / "moved")
    with pytest.raises(ltd.InputError, match=r"there is no draft head in .*custom_generate/head"):
        load(tmp_path / "moved")


def test_no_error_of_the_system_passes_for_a_folder_without_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`transformers` takes an OSError for that, and decodes plainly."""

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "head/config.json")

    monkeypatch.setattr("ltd.custom_generate.folder.check_named", fail)
    with pytest.raises(ltd.InputError, match=r"cannot read head/config\.json: Permission denied"):
        FolderGenerate("head")


def test_what_is_refused_is_an_answer_where_a_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ltd.InputError('no "beams"\\')
    assert as_answer(error) is error
    fastapi = pytest.importorskip("fastapi")
    monkeypatch.setitem(sys.modules, SERVER, sys)
    answered: Any = as_answer(error)
    assert isinstance(answered, fastapi.HTTPException)
    assert (answered.status_code, answered.detail) == (400, "no 'beams'/")


def test_a_streamer_that_can_be_cancelled_is_not_ended_by_an_error(exported: Callable[..., Path]) -> None:
    """A server's: it hears of errors by itself, and takes an end for that of a whole answer."""

    class Cancellable(Recorder):
        def cancel(self) -> None:
            pass

    model, refused, whole = load(exported()), Cancellable(), Cancellable()
    with pytest.raises(ltd.InputError, match="beam search"):
        answer(model, num_beams=2, streamer=refused)
    assert len(refused.said) == 1 and "end" not in refused.said  # the prompt alone
    said = answer(model, streamer=whole)
    assert whole.said == [IDS.tolist(), *([token] for token in said[6:]), "end"]


def test_the_command(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = str(tmp_path / "out"), str(tiny_target("llama"))
    named = ["--to", "custom-generate", "--head", str(tiny_head("llama"))]
    assert main(["export", model, out, *named, "--policy", "static", "--dtype", "float32"]) == 0
    assert f"to serve it: transformers serve {out} --trust-remote-code" in capsys.readouterr().err
    assert answer(load(Path(out))) == answer(load(tiny_target("llama"), trust=False))
    assert main(["export", model, str(tmp_path / "whole"), *named, "--keep-weights"]) == 0
    assert "takes_weights=False" in (tmp_path / "whole" / "custom_generate" / "generate.py").read_text()
    assert "policy=None" in (tmp_path / "whole" / "custom_generate" / "generate.py").read_text()
    capsys.readouterr()
    wrong = {
        ("a", "b", "c", *named): "takes a model and a folder, but there are 3 names",
        (model, "b", *named, "--rope-theta", "1e4"): "--to custom-generate makes no use of --rope-theta",
        ("b", "--to", "vllm", "--policy", "static"): "--to vllm makes no use of --policy",
        ("a", "b", "--to", "vllm"): "--to vllm takes one folder",
        ("b", "--to", "tgi"): "there is no layout 'tgi'; use one of ltd, vllm, sglang, speculators, custom-generate",
    }
    for arguments, message in wrong.items():
        assert main(["export", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_the_default_model_and_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "out"), "--to", "custom-generate"]) == 0
    assert "the default model is in" in capsys.readouterr().err
    assert (tmp_path / "out" / "custom_generate" / "head").readlink() == shipped_head().resolve()
