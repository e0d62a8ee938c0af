"""Files that others wrote, damaged at random: every loader takes them or says in one sentence what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ltd.chains.acceptance_files import load_acceptance, save_acceptance
from ltd.chains.model_files import read_chain
from ltd.common.assets import assets, shipped_baseline, shipped_chain, shipped_policies
from ltd.common.journal import Journal
from ltd.common.tensor_files import load_pickled
from ltd.drafts.eagle3.files import load_head
from ltd.drafts.sharpness import load_sharpness
from ltd.errors import InputError
from ltd.evaluation.questions import parse_line
from ltd.latency.model import LatencyModel
from ltd.lookup.scores import load_text_scores
from ltd.policies.baselines.acceptance_head import AcceptanceHead
from ltd.policies.baselines.files import load_baseline
from ltd.policies.controller_file import load_controller
from ltd.policies.grid import load_grid
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.observation import depth_layout
from ltd.policies.learned.sb3_import import read_network
from ltd.target.model import load_model, read_config
from ltd_rl.traces.format import load_shard

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400]), st.floats(),
    st.text(max_size=5), st.lists(st.integers(-1, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.none()),
)  # fmt: skip
ENTRIES = {
    "format": "ltd-bundle", "schema": 1, "kind": "disco", "width": 4, "depth": 3, "size": 20, "setup": {}, "parts": {},
}  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, values: Any) -> Any:
    """The values with one part somewhere exchanged or left out."""
    if isinstance(values, dict) and values and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(values)))
        if not draw(st.integers(0, 4)):
            return {key: value for key, value in values.items() if key != name}
        return {**values, name: draw(damaged(values[name]))}
    if isinstance(values, list) and values and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(values) - 1))
        return [*values[:place], draw(damaged(values[place])), *values[place + 1 :]]
    return draw(ODD)


@st.composite
def cut(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some bytes exchanged or its end cut off."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, min(len(content), 4000) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def takes_or_says(load: Callable[[], Any]) -> None:
    """Anything but InputError fails the test that calls this."""
    with contextlib.suppress(InputError):
        load()


@QUIET
@given(data=st.data())
def test_heads(data: st.DataObject, tmp_path: Path, tiny_head: Folder) -> None:
    source = tiny_head("llama")
    config, weights = source / "config.json", (source / "model.safetensors").read_bytes()
    values = data.draw(damaged(json.loads(config.read_text())))
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes(data.draw(cut(weights)) if data.draw(st.booleans()) else weights)
    takes_or_says(lambda: load_head(tmp_path, torch.float32, "cpu"))


@QUIET
@given(data=st.data())
def test_models(data: st.DataObject, tmp_path: Path, tiny_target: Folder) -> None:
    source = tiny_target("qwen2")
    for name in ("model.safetensors", "generation_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    values = data.draw(damaged(json.loads((source / "config.json").read_text())))
    (tmp_path / "config.json").write_text(json.dumps(values))
    takes_or_says(lambda: read_config(str(tmp_path)))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "bundle": ("policy.json", lambda file: load_bundle(file.parent)),
    "latency": ("latency.json", LatencyModel.load),
    "controller": ("controller.json", load_controller),
    "grid": ("grid.json", load_grid),
    "lookup": ("lookup.json", load_text_scores),
    "sampling": ("sampling.json", lambda file: load_sharpness(file.parent)),
    "question": ("question.jsonl", lambda file: parse_line("qa", file, 1, file.read_text(errors="replace"))),
    "model": ("config.json", lambda file: read_config(str(file.parent))),
    "head": ("config.json", lambda file: load_head(file.parent, torch.float32, "cpu")),
    "acceptance": ("acceptance.json", lambda file: load_acceptance(file.parent)),
    "trace": ("00000.safetensors", load_shard),
    "network": ("policy.zip", lambda file: read_network(file, depth_layout(10))),
    "journal": ("run.jsonl", lambda file: Journal(file, {"a": 1})),
}
DEEP = b'{"format":' + b"[" * 100_000
TEXTS = [
    b"",
    b"\xff\xfe",
    DEEP,
    b"[]",
    b"null",
    b'"x"',
    b"1e999",
    b'{"a": 1',
    b"\xef\xbb\xbf{}",
    b"{" + b'"a":1,' * 9 + b"}",
]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_any_text_in_place_of_any_file(kind: str, content: bytes, tmp_path: Path) -> None:
    name, load = READERS[kind]
    file = tmp_path / name
    file.write_bytes(content + b"\n" if kind == "journal" and content else content)
    if kind == "head":
        save_file({"fc.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    if kind == "journal" and not content.strip():
        load(file)  # a new one
        return
    with pytest.raises(InputError):
        load(file)


@QUIET
@given(data=st.data(), kind=st.sampled_from(sorted(READERS)))
def test_any_values_in_place_of_any_file(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    name, load = READERS[kind]
    values = data.draw(damaged(ENTRIES))
    (tmp_path / name).write_text(json.dumps(values) + "\n")
    takes_or_says(lambda: load(tmp_path / name))


SHIPPED: dict[str, tuple[Path, str, Callable[[Path], Any]]] = {
    "bundle": (sorted(shipped_policies().iterdir())[0], "policy.json", load_bundle),
    "chain": (shipped_chain(), "config.json", read_chain),
    "acceptance": (shipped_chain() / "acceptance", "acceptance.json", load_acceptance),
    "disco": (shipped_baseline("disco"), "baseline.json", lambda folder: load_baseline(folder, "disco")),
    "lookup": (assets(), "lookup.json", lambda folder: load_text_scores(folder / "lookup.json")),
}


@QUIET
@given(data=st.data(), kind=st.sampled_from(sorted(SHIPPED)))
def test_shipped_folders_with_one_value_exchanged(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    source, name, load = SHIPPED[kind]
    folder = tmp_path / kind
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name != name and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    (folder / name).write_text(json.dumps(data.draw(damaged(json.loads((source / name).read_text())))))
    takes_or_says(lambda: load(folder))


@QUIET
@given(data=st.data())
def test_acceptance_heads(data: st.DataObject, tmp_path: Path) -> None:
    save_acceptance(AcceptanceHead(6, 4, 1), tmp_path, "draft", {})
    file = tmp_path / "acceptance.json"
    file.write_text(json.dumps(data.draw(damaged(json.loads(file.read_text())))))
    takes_or_says(lambda: load_acceptance(tmp_path))


def test_a_config_of_ten_million_layers_is_refused_at_once(tiny_target: Folder, tmp_path: Path) -> None:
    source = tiny_target("llama")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for sizes in ({"num_hidden_layers": 10_000_000}, {"hidden_size": 2**30}, {"vocab_size": 2**31}):
        values = {**json.loads((source / "config.json").read_text()), **sizes}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=r"asks for|must be a whole number|cannot read"):
            load_model(tmp_path, torch.float32, CPU)


def zip_of(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize("where", ["data", "policy.pth"])
def test_zip_bombs_are_refused_before_they_are_unpacked(where: str, tmp_path: Path) -> None:
    members = {"data": b"{}", "policy.pth": b"x", where: bytes(50_000_000)}
    (tmp_path / "bomb.zip").write_bytes(zip_of(members))
    with pytest.raises(InputError, match="more than 20 times its size"):
        read_network(tmp_path / "bomb.zip", depth_layout(10))
    with pytest.raises(ValueError, match="more than 20 times"):
        load_pickled(zip_of({"archive/data.pkl": bytes(50_000_000)}))
    (tmp_path / "bomb.zip").write_bytes(zip_of(members, zipfile.ZIP_LZMA))
    with pytest.raises(InputError):
        read_network(tmp_path / "bomb.zip", depth_layout(10))


def test_a_truncated_member_is_damage(tmp_path: Path) -> None:
    content = bytearray(zip_of({"data": b"{}" * 40, "policy.pth": bytes(range(256)) * 9}, zipfile.ZIP_STORED))
    place = content.rindex(b"PK\x01\x02")  # the directory's entry of the last member: its sizes are made larger
    content[place + 20 : place + 28] = (200_000).to_bytes(4, "little") * 2
    (tmp_path / "cut.zip").write_bytes(bytes(content) + bytes(20_000))
    with pytest.raises(InputError, match="not a zip file of Stable-Baselines3"):
        read_network(tmp_path / "cut.zip", depth_layout(10))
