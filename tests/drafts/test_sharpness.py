"""The factors of a draft's scores: on paper, in their file, and at the door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save

import ltd
from ltd.common.files import file_hash
from ltd.drafts.base import Origin
from ltd.drafts.sharpness import SAMPLING, Sharpness, SharpnessAt, load_sharpness, save_sharpness
from ltd.errors import InputError

Folder = Callable[[str], Path]
FITTED = Sharpness((SharpnessAt(0.5, [0.5, 0.25]), SharpnessAt(1.0, [1.0]), SharpnessAt(2.0, [2.0, 3.0, 5.0])))


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.1, (0.5, 0.25)),
        (0.5, (0.5, 0.25)),
        (0.75, (0.75, 0.625)),
        (1.0, (1.0, 1.0, 1.0)),
        (1.5, (1.5, 2.0, 3.0)),
        (2.0, (2.0, 3.0, 5.0)),
        (9.0, (2.0, 3.0, 5.0)),
    ],
)
def test_between_fitted_temperatures_they_lie_on_a_line(temperature: float, expected: tuple[float, ...]) -> None:
    assert FITTED.at(temperature) == pytest.approx(expected)


def test_a_folder_gives_what_was_saved(tmp_path: Path) -> None:
    assert Origin(tmp_path).sharpness.at(1.0) == (1.0,)
    save_sharpness(FITTED, tmp_path, {"traces": "made up"})
    assert load_sharpness(tmp_path) == Origin(tmp_path).sharpness == FITTED
    assert json.loads((tmp_path / SAMPLING).read_text())["facts"] == {"traces": "made up"}


@pytest.mark.parametrize(
    ("fits", "message"),
    [
        ([], "there are no factors"),
        ([{"temperature": 0.0, "levels": [1.0]}], r"temperature 0\.0 is out of range"),
        ([{"temperature": 1.0, "levels": []}], r"factors for 0 levels; it must be 1 … 13"),
        ([{"temperature": 1.0, "levels": [1.0] * 14}], "factors for 14 levels"),
        ([{"temperature": 1.0, "levels": [0.0]}], r"the factor 0\.0 is out of range"),
        ([{"temperature": 1.0, "levels": [1e4]}], r"the factor 10000\.0 is out of range"),
        ([{"temperature": 1.0, "levels": [1.0]}] * 2, "must ascend"),
        ([{"temperature": 1.0}], r"lacks sharpness\.0\.levels"),
        ("much", "must be a list"),
        ([{"temperature": 1.0, "levels": [1.0], "factors": [2.0]}], r"does not know: sharpness\.0\.factors$"),
    ],
)
def test_what_is_not_whole_is_refused_when_a_draft_is_opened(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, fits: Any, message: str
) -> None:
    for file in tiny_head("llama").iterdir():
        (tmp_path / file.name).symlink_to(file)
    content = {"format": "ltd-sampling", "schema": 1, "sharpness": fits}
    (tmp_path / SAMPLING).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        ltd.load(tiny_target("llama"), tmp_path, dtype="float32")
    assert str(caught.value).startswith(f"the draft's factors {tmp_path / SAMPLING} cannot be used")


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / SAMPLING).write_text('{"format": "ltd-sampling", "schema": 2, "sharpness": []}')
    with pytest.raises(InputError, match="its schema is 2"):
        load_sharpness(tmp_path)


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    save_sharpness(FITTED, tmp_path, {})
    content = json.loads((tmp_path / SAMPLING).read_text())
    content |= {"top_p": 0.9, "levels": [1.0]}
    (tmp_path / SAMPLING).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"this version of ltd does not know: (top_p, levels|levels, top_p)"):
        load_sharpness(tmp_path)


def test_factors_of_other_weights_are_refused(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    shutil.copytree(tiny_head("llama"), tmp_path, dirs_exist_ok=True)
    save_sharpness(FITTED, tmp_path, {})
    weights = tmp_path / "model.safetensors"
    assert json.loads((tmp_path / SAMPLING).read_text())["head_sha256"] == file_hash(weights)
    decoder = ltd.load(tiny_target("llama"), tmp_path, dtype="float32")
    assert decoder.draft is not None and decoder.draft.origin.sharpness == FITTED
    trained = {name: tensor + 1 if name == "norm.weight" else tensor for name, tensor in load_file(weights).items()}
    assert "norm.weight" in trained
    weights.write_bytes(save({name: tensor.clone() for name, tensor in trained.items()}))
    with pytest.raises(InputError, match=r"cannot be used: they were fitted to other weights .* delete the file"):
        ltd.load(tiny_target("llama"), tmp_path, dtype="float32")
    save_sharpness(FITTED, tmp_path, {})  # fitted anew
    ltd.load(tiny_target("llama"), tmp_path, dtype="float32")


def test_factors_of_weights_that_are_not_named_are_taken(tmp_path: Path) -> None:
    save_sharpness(FITTED, tmp_path, {})  # there is no such file
    assert "head_sha256" not in json.loads((tmp_path / SAMPLING).read_text())
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert load_sharpness(tmp_path) == FITTED


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the draft's factors"):
        save_sharpness(FITTED, tmp_path / "file", {})
