"""The data of `ltd train-draft` by workers on other machines: the same shards, whoever writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_crew import OtherCrew

from ltd.common.shards import shard_file
from ltd.common.workers import Crew, Here
from ltd.errors import InputError
from ltd.target.model import LoadedModel, load_model
from ltd.training import TrainDraftConfig
from ltd.training.data.chat_format import ChatFormat
from ltd.training.data.conversations import WrittenShard, written_shards
from ltd.training.data.mix import KINDS, furthest_behind, parse_mix
from ltd.training.data.stage import DataStage
from ltd.training.data.writing import plan_shards

Target = Callable[[str], Path]
LAYERS = (1, 3)


def config_of(target: Path, **changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {
        "tokens": 9000, "length": 90, "user_length": 12, "answer_length": 30, "rows": 8, "dtype": "float32", "seed": 5,
        "greedy_share": 0.5, "context_length": 224, "shards_at_once": 4,
    }  # fmt: skip
    return TrainDraftConfig(out="unused", target=str(target), **{**values, **changes})


@pytest.fixture(scope="module")
def target(tiny_target: Target) -> LoadedModel:
    return load_model(str(tiny_target("llama")), torch.float32, torch.device("cpu"))


def made(config: TrainDraftConfig, out: Path, target: LoadedModel, crew: Crew, tokens: int = 4000) -> dict[str, bytes]:
    """The files of both stages."""
    stage = DataStage(config, out, target, torch.float32, LAYERS, crew)
    stage.write(tokens)
    stage.cache()
    return files_in(out)


def files_in(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.glob("*/*.safetensors"))}


def test_others_make_the_same_data(tiny_target: Target, target: LoadedModel, tmp_path: Path) -> None:
    config = config_of(tiny_target("llama"))
    here = made(config, tmp_path / "here", target, Here())
    crew = OtherCrew()
    assert made(config, tmp_path / "there", target, crew) == here
    count = len(here) // 2
    assert count > 4 and {shard.kind.given for shard in written_shards(tmp_path / "here" / "data")} == {
        "nothing",
        "text",
    }
    assert [len(units) for units in crew.units] == [4] * -(-count // 4)


def test_others_make_the_same_features_again(tiny_target: Target, target: LoadedModel, tmp_path: Path) -> None:
    config = config_of(tiny_target("llama"))
    written = len(made(config, tmp_path / "here", target, Here())) // 2
    shutil.copytree(tmp_path / "here" / "data", tmp_path / "there" / "data")
    shutil.rmtree(tmp_path / "here" / "features")
    crew = OtherCrew()
    assert made(config, tmp_path / "here", target, Here()) == made(config, tmp_path / "there", target, crew)
    assert [len(units) for units in crew.units] == [written]


def test_a_round_goes_on_where_it_was_stopped(tiny_target: Target, target: LoadedModel, tmp_path: Path) -> None:
    config = config_of(tiny_target("llama"))
    here = made(config, tmp_path / "here", target, Here())
    part = made(config, tmp_path / "there", target, OtherCrew(), tokens=1)
    assert len(part) == 2  # what was written beyond the first shard is nobody's
    crew = OtherCrew()
    assert made(config, tmp_path / "there", target, crew) == here
    assert len(crew.units[0]) == 3


def test_what_is_missing_in_a_round_is_made_again_and_nothing_else(
    tiny_target: Target, target: LoadedModel, tmp_path: Path
) -> None:
    config = config_of(tiny_target("llama"))
    whole = made(config, tmp_path, target, Here())
    for number in (1, 3):
        shard_file(tmp_path / "data", number).unlink()
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").iterdir()}
    crew = OtherCrew()
    assert made(config, tmp_path, target, crew) == whole
    assert [len(units) for units in crew.units] == [2]
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())


def test_one_at_a_time_cannot_be_shared(tiny_target: Target, target: LoadedModel, tmp_path: Path) -> None:
    config = config_of(tiny_target("llama"), shards_at_once=1)
    with pytest.raises(InputError, match="give at least as many as there will be, --shards-at-once 8 say"):
        made(config, tmp_path, target, OtherCrew())
    with pytest.raises(InputError, match="shards_at_once"):
        config_of(tiny_target("llama"), shards_at_once=0)
    with pytest.raises(InputError, match=r"shards_at_once = 4, but this run says 1"):
        config.check_same({**config.to_dict(), "shards_at_once": 4})


# --- plans ---


def no_texts(kind: int, answers: int) -> WrittenShard:
    return WrittenShard(KINDS[kind], 2 * answers, answers)


@settings(max_examples=50)
@given(
    written=st.lists(st.builds(no_texts, st.integers(0, 2), st.integers(1, 900)), max_size=12),
    at_once=st.integers(1, 5),
)
def test_a_plan_knows_earlier_rounds_alone(written: list[WrittenShard], at_once: int) -> None:
    mix = "chat=2,list=1,turns=1"
    config = config_of(Path("t"), mix=mix, shards_at_once=at_once)
    plans = plan_shards(config, ChatFormat.__new__(ChatFormat), Path("nowhere"), written)
    first = len(written) // at_once * at_once
    assert [plan.number for plan in plans] == list(range(len(written), first + at_once))
    changed = [*written[:first], *(replace(shard, answer_tokens=1, kind=KINDS[0]) for shard in written[first:])]
    again = plan_shards(config, ChatFormat.__new__(ChatFormat), Path("nowhere"), changed)
    assert [plan.kind for plan in again] == [plan.kind for plan in plans]
    if at_once == 1:  # as it was before there were rounds
        counts: dict[str, int] = {}
        for shard in written:
            counts[shard.kind.name] = counts.get(shard.kind.name, 0) + shard.answer_tokens
        assert plans[0].kind is next(furthest_behind(parse_mix(mix), counts))


def test_a_round_has_several_kinds() -> None:
    config = config_of(Path("t"), mix="chat=2,list=1,turns=1", shards_at_once=4)
    plans = plan_shards(config, ChatFormat.__new__(ChatFormat), Path("nowhere"), [])
    assert sorted(plan.kind.name for plan in plans) == ["chat", "chat", "list", "turns"]
