"""`ltd record` by workers on other machines: the same files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from other_crew import OtherCrew

from ltd.errors import InputError
from ltd_rl.traces.record import RecordConfig, record


@pytest.fixture
def config(
    data: Path, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]
) -> RecordConfig:
    return RecordConfig(
        data_dir=data,
        out=tmp_path / "out",
        tasks=("first", "second"),
        max_new_tokens=10,
        target=str(tiny_target("llama")),
        draft=str(tiny_head("llama")),
        dtype="float32",
        depth=2,
        shard_questions=3,
        temperatures=(0.0, 0.8),
        seed=5,
    )


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def test_others_record_the_same(config: RecordConfig, tmp_path: Path) -> None:
    record(replace(config, out=tmp_path / "here"))
    crew = OtherCrew()
    record(config, crew=crew)
    assert shards(config.out) == shards(tmp_path / "here") and len(shards(config.out)) == 2
    assert [len(units) for units in crew.units] == [4]  # a question is a unit, whatever a shard holds
    (config.out / "00000.safetensors").unlink()
    crew = OtherCrew()
    record(config, crew=crew)
    assert shards(config.out) == shards(tmp_path / "here") and [len(units) for units in crew.units] == [3]
    crew = OtherCrew()
    record(config, crew=crew)
    assert crew.units == []
    with pytest.raises(InputError, match="leave --threads out"):
        record(replace(config, threads=1), crew=OtherCrew())
