"""Heads written for other engines read back as themselves, whatever they are; what a layout cannot say is refused."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import ltd
from ltd.cli.main import main
from ltd.common.assets import shipped_head
from ltd.common.files import file_hash
from ltd.drafts.eagle3.export import FLAGS, export_head
from ltd.drafts.eagle3.files import load_head, save_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.sharpness import Sharpness, SharpnessAt, load_sharpness, save_sharpness
from ltd.errors import InputError

VOCABULARY = 40
ROPES = (None, {"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 2.0})


@st.composite
def heads(draw: st.DrawFn, plain: bool = False) -> Eagle3Head:
    """A random head; with `plain`, one of EAGLE-3 as it was published first."""
    words = draw(st.sampled_from([24, VOCABULARY]))
    first, keys = draw(st.integers(1, 6)), draw(st.sampled_from([2, 4]))
    options: dict[str, Any] = {} if plain else {name: draw(st.booleans()) for name in FLAGS}
    hidden, target_hidden = 12, draw(st.sampled_from([12, 20]))
    own_embedding = target_hidden != hidden or draw(st.booleans())
    config = Eagle3Config(
        hidden_size=hidden, intermediate_size=20, num_attention_heads=4, num_key_value_heads=keys,
        head_dim=6, vocab_size=VOCABULARY, draft_vocab_size=words, target_hidden_size=target_hidden,
        feature_layers=tuple(range(first, first + 2 * draw(st.integers(1, 4)), 2)),
        rms_norm_eps=draw(st.sampled_from([1e-5, 1e-6])), rope_theta=draw(st.sampled_from([10000.0, 1e6])),
        rope_scaling=draw(st.sampled_from(ROPES)), max_position_embeddings=draw(st.sampled_from([512, 2048])),
        attention_bias=draw(st.booleans()), **options,
    )  # fmt: skip
    torch.manual_seed(draw(st.integers(0, 99)))
    head = Eagle3Head(config, own_embedding=own_embedding)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    ids = torch.randperm(VOCABULARY)[:words].sort().values
    head.d2t = ids - torch.arange(words)
    head.t2d = torch.zeros(VOCABULARY, dtype=torch.bool).index_fill(0, ids, True)
    return head.eval()


def make_head(**changes: Any) -> Eagle3Head:
    config = Eagle3Config(
        hidden_size=12, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        vocab_size=VOCABULARY, draft_vocab_size=24, target_hidden_size=12, feature_layers=(2, 4, 5),
    )  # fmt: skip
    return Eagle3Head(replace(config, **changes)).eval()


def assert_reads_back(head: Eagle3Head, layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export_head(head, layout, Path(folder) / "out")
        again = load_head(Path(folder) / "out", torch.float32, "cpu")
    assert again.config == head.config
    assert again.state_dict().keys() == head.state_dict().keys()
    for name, tensor in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@settings(max_examples=40)
@given(head=heads(), layout=st.sampled_from(["ltd", "vllm", "speculators"]))
def test_heads_read_back_as_themselves(head: Eagle3Head, layout: str) -> None:
    assert_reads_back(head, layout)


@settings(max_examples=20)
@given(head=heads(plain=True))
def test_heads_for_sglang_read_back_as_themselves(head: Eagle3Head) -> None:
    assert_reads_back(head, "sglang")


@pytest.mark.parametrize(("layout", "ids"), [("vllm", [2, 4, 5]), ("sglang", [1, 3, 4]), ("speculators", [2, 4, 5])])
def test_engines_count_layers_in_their_own_way(tmp_path: Path, layout: str, ids: list[int]) -> None:
    export_head(make_head(), layout, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eagle_aux_hidden_state_layer_ids"] == ids
    prefix = "layers.0." if layout == "speculators" else "midlayer."
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(name.startswith(prefix) for name in stored) == 10
    assert "embed_tokens.weight" not in stored


def test_ids_read_as_published_without_our_own_key(tmp_path: Path) -> None:
    export_head(make_head(feature_layers=(2, 4, 5)), "sglang", tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    del config["ltd_feature_layers"]
    file.write_text(json.dumps(config))
    assert load_head(tmp_path / "out", torch.float32, "cpu").config.feature_layers == (2, 4, 5)


def test_a_whole_vocabulary_needs_no_map_in_speculators(tmp_path: Path) -> None:
    head = make_head(draft_vocab_size=VOCABULARY)
    export_head(head, "speculators", tmp_path / "out")
    assert not {"d2t", "t2d"} & load_file(tmp_path / "out" / "model.safetensors").keys()
    head.d2t = torch.arange(VOCABULARY).flip(0) - torch.arange(VOCABULARY)
    with pytest.raises(InputError, match="another order"):
        export_head(head, "speculators", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "layout", "message"),
    [
        ({}, "trtllm", "no layout 'trtllm'; use one of ltd, vllm, sglang, speculators"),
        ({"norm_output": True, "fc_norm": True}, "sglang", "a head with fc_norm, norm_output"),
        ({"feature_layers": (0, 4, 5)}, "sglang", "no name for the embedding"),
    ],
)
def test_what_a_layout_has_no_words_for_is_refused(
    tmp_path: Path, changes: dict[str, Any], layout: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_head(make_head(**changes), layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    save_head(make_head(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"holds a config\.json already"):
        export_head(make_head(), "vllm", tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    head = make_head()
    head.fc.weight.data[0, 0] = float("inf")
    for folder in (tmp_path / "new" / "out", tmp_path):
        with pytest.raises(InputError, match=r"fc\.weight holds numbers that are not finite"):
            export_head(head, "vllm", folder)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_layers_that_no_file_can_hold_are_refused() -> None:
    with pytest.raises(InputError, match="needs indices of 0 or more, below 2147483648"):
        make_head(feature_layers=(2, 4, 10**30))


def test_what_belongs_to_the_weights_goes_along_in_our_own_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["export", str(tmp_path / "ltd"), "--to", "ltd"]) == 0
    assert "stay behind" not in capsys.readouterr().err
    for name in ("sampling.json", "lookup.json"):
        assert (tmp_path / "ltd" / name).read_bytes() == (shipped_head() / name).read_bytes()
    assert main(["inspect", str(tmp_path / "ltd")]) == 0
    assert capsys.readouterr().out.count("there: how") == 2
    assert main(["export", str(tmp_path / "vllm"), "--to", "vllm"]) == 0
    assert "sampling.json and lookup.json of the head stay behind" in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "vllm").iterdir()) == ["config.json", "model.safetensors"]
    assert main(["inspect", str(tmp_path / "vllm")]) == 0
    assert "there: how" not in capsys.readouterr().out


def test_factors_that_name_their_weights_name_those_that_are_written(
    tmp_path: Path, tiny_head: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    head, fitted = tmp_path / "head", Sharpness((SharpnessAt(1.0, [0.5]),))
    shutil.copytree(tiny_head("llama"), head)
    save_sharpness(fitted, head, {"fitted_to": "nothing"})
    # In another type the file of the weights is another one, whose hash the copy must name.
    assert main(["export", str(tmp_path / "out"), "--head", str(head), "--to", "ltd", "--dtype", "float16"]) == 0
    assert file_hash(tmp_path / "out" / "model.safetensors") != file_hash(head / "model.safetensors")
    assert load_sharpness(tmp_path / "out") == fitted
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["facts"] == {"fitted_to": "nothing"}
    (head / "model.safetensors").write_bytes((tmp_path / "out" / "model.safetensors").read_bytes())
    assert main(["export", str(tmp_path / "none"), "--head", str(head), "--to", "ltd"]) == 2
    assert "they were fitted to other weights" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "out"
    assert main(["export", str(out), "--to", "sglang"]) == 0
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "hs[2, 15, 27]" in shown
    assert "8192 of the target's 49152 words" in shown
    assert main(["inspect", str(tmp_path)]) == 2
    assert "there is no draft head" in capsys.readouterr().err
    assert main(["inspect", str(out), "--feature-layers", "2,x"]) == 2
    assert "no whole numbers with commas between" in capsys.readouterr().err


def test_inspecting_our_own_layout_shows_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(make_head(), tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "draft_vocab_size" in shown
    assert "architectures" not in shown


def test_a_published_head_is_tried_when_it_is_loaded(tmp_path: Path) -> None:
    shipped = load_head(shipped_head(), torch.bfloat16, "cpu")
    export_head(shipped, "vllm", tmp_path / "right")
    export_head(Eagle3Head(replace(shipped.config, target=None)).bfloat16(), "vllm", tmp_path / "untrained")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ltd.ImplausibleHeadWarning)
        decoder = ltd.load(draft=tmp_path / "right", policy="static")
    assert decoder.last_statistics.gains == []
    with pytest.warns(ltd.ImplausibleHeadWarning, match=r"taken as 2, 15, 27\), its RoPE base"):
        ltd.load(draft=tmp_path / "untrained", policy="static")
    # What the trial cannot do refuses nothing: its prompts may be too long where shorter ones are not.
    with pytest.warns(UserWarning, match="could not be tried: the prompt has") as caught:
        decoder = ltd.load(draft=tmp_path / "right", policy="static", max_length=8)
    assert not any(issubclass(each.category, ltd.ImplausibleHeadWarning) for each in caught)
    assert decoder.last_statistics.gains == []


@pytest.mark.parametrize("option", [["--rope-theta", "1e6"], ["--feature-layers", "3,4,5"]])
def test_exporting_with_other_settings(tmp_path: Path, option: list[str]) -> None:
    save_head(make_head(), tmp_path / "head")
    assert main(["export", str(tmp_path / "out"), "--to", "ltd", "--head", str(tmp_path / "head"), *option]) == 0
    config = load_head(tmp_path / "out", torch.float32, "cpu").config
    assert (config.rope_theta, config.feature_layers) == ((1e6, (2, 4, 5)) if "1e6" in option else (1e4, (3, 4, 5)))
