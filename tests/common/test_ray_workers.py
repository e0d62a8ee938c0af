"""Workers of a real Ray, with two nodes on this machine: four do what one does, also when they are killed midway."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray_jobs
import torch
from ray.cluster_utils import Cluster
from ray_jobs import Squares, load_mortal

from ltd.common.ray_crew import RayCrew
from ltd.common.workers import Here
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.target.model import load_model
from ltd.training import TrainDraftConfig
from ltd.training.data.stage import DataStage
from ltd_rl.traces.record import RecordConfig, record

NODES, WORKERS = 2, 4
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "600000",  # which a slow machine has time to start in
    "RAY_worker_niceness": "0",  # else workers wait for all other tests
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # a process that has imported torch is used again
}
TIMES = ("seconds", "decode_seconds", "tokens_per_second", "machine")  # what is another one in every run


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with two processors each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(ray_jobs.__file__).parent), *sys.path]))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=2)
        yield str(cluster.address)
        cluster.shutdown()


@pytest.fixture(scope="module")
def crew(address: str) -> Iterator[RayCrew]:
    """Four workers, the same processes in all tests but for those that die."""
    crew = RayCrew(address, cpus=1)
    yield crew
    crew.close()


# --- any work ---


def test_results_come_in_order_whoever_dies(crew: RayCrew, tmp_path: Path) -> None:
    job, numbers = Squares(tmp_path, deadly=(3, 11)), list(range(20))
    found = list(crew.do(job, numbers))
    assert [number for number, _ in found] == [value for number in numbers for value in (number * number, number)]
    assert {file.name for file in tmp_path.iterdir()} == {"3", "11"}
    workers = {process for _, process in found}
    assert os.getpid() not in workers and 2 <= len(workers) <= WORKERS + 2
    assert [one for _, one in found[::2]] == [other for _, other in found[1::2]]  # a unit is one worker's


def test_workers_and_what_they_share(crew: RayCrew) -> None:
    assert crew.is_remote and crew.size == WORKERS
    assert len({post.share.node.id for post in crew.posts}) == NODES
    assert crew.machine_facts() == {**Here().machine_facts(), "threads": 1}


def test_what_is_wrong_is_one_sentence_that_names_the_node(crew: RayCrew, tmp_path: Path) -> None:
    name = crew.nodes[0].name
    with pytest.raises(InputError, match=f"^on node {name}: 7 cannot be squared$"):
        list(crew.do(Squares(tmp_path, wrong=7), range(9)))
    with pytest.raises(Exception, match="ZeroDivisionError") as raised:
        list(crew.do(Squares(tmp_path, broken=1), range(9)))
    assert not isinstance(raised.value, InputError)
    with pytest.raises(InputError, match=f"3 workers died over the same piece of work, the last one on node {name}"):
        list(crew.do(Squares(tmp_path, fatal=5), range(9)))
    assert [number for number, _ in crew.do(Squares(tmp_path), [2])] == [4, 2]  # and it goes on


def test_files_must_be_alike(crew: RayCrew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_text("1")
    job = Squares(tmp_path, files=(tmp_path / "model",))
    assert len(list(crew.do(job, [1]))) == 2
    monkeypatch.setattr("ltd.common.ray_crew.fingerprint", lambda path: "another")
    with pytest.raises(
        InputError, match=f"^on node {crew.nodes[0].name}: .*model is not the same as on the first machine"
    ):
        list(crew.do(replace(job), [1]))


def test_results_that_nobody_wants_any_more(crew: RayCrew, tmp_path: Path) -> None:
    job = Squares(tmp_path)
    results = crew.do(job, range(50))
    assert next(results)[0] == 0
    results.close()  # type: ignore[attr-defined]
    assert [number for number, _ in crew.do(job, [5])] == [25, 5]


def test_a_warning_is_told_once(crew: RayCrew, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(crew.do(Squares(tmp_path, warning="take care"), range(8)))
        list(crew.do(Squares(tmp_path, warning="take care"), range(8)))
    mine = [str(each.message) for each in caught if "take care" in str(each.message)]
    assert mine == [f"on node {crew.nodes[0].name}: take care"]


def test_what_a_cluster_cannot_do_is_told(address: str, crew: RayCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no node of Ray has 3 processors for a worker; the largest of 2 has 2"):
        RayCrew(address, cpus=3).size  # noqa: B018
    with pytest.raises(InputError, match="no node of Ray has a GPU"):
        RayCrew(address, gpu=True).size  # noqa: B018
    monkeypatch.setattr("ltd.common.ray_nodes.VERSION", "9.9")
    with pytest.raises(InputError, match=f"node {crew.nodes[0].name} of Ray has ltd .*, but this is ltd 9.9"):
        RayCrew(address).size  # noqa: B018


# --- the commands ---


@pytest.fixture
def models(data: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]) -> dict[str, Any]:
    return {
        "data_dir": data, "tasks": ("first", "second"), "max_new_tokens": 8, "target": str(tiny_target("llama")),
        "draft": str(tiny_head("llama")), "dtype": "float32",
    }  # fmt: skip


def files_in(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


def test_recording_with_a_worker_killed_in_an_answer(crew: RayCrew, models: dict[str, Any], tmp_path: Path) -> None:
    config = RecordConfig(**models, out=tmp_path / "here", depth=2, shard_questions=2, temperatures=(0.0, 0.8))
    record(config)
    mark = tmp_path / "mark"
    record(replace(config, out=tmp_path / "there"), partial(load_mortal, mark=str(mark), call=1), crew)
    assert mark.exists()
    assert files_in(tmp_path / "there") == files_in(tmp_path / "here") != {}


def test_evaluating_with_a_worker_killed_in_an_answer(crew: RayCrew, models: dict[str, Any], tmp_path: Path) -> None:
    config = EvalConfig(**models, out=tmp_path / "here", methods=("none", "eagle3"))
    here = evaluate(config)
    mark = tmp_path / "mark"
    load = partial(load_mortal, mark=str(mark), call=4)  # two answers warm up
    there = evaluate(replace(config, out=tmp_path / "there"), load, crew)
    assert mark.exists()
    lines = (tmp_path / "there" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["token_ids"] for line in lines[1:]] == [
        json.loads(line)["token_ids"] for line in (tmp_path / "here" / "samples.jsonl").read_text().splitlines()[1:]
    ]
    for one, other in zip(here["samples"], there["samples"], strict=True):
        assert {n: one[n] for n in one if n not in TIMES} == {n: other[n] for n in other if n not in TIMES}
        assert other["machine"]["threads"] == 1


def test_data_for_heads(crew: RayCrew, models: dict[str, Any], tmp_path: Path) -> None:
    config = TrainDraftConfig(
        out="unused", target=models["target"], tokens=2500, length=90, user_length=12, answer_length=30, rows=8,
        dtype="float32", seed=5, context_length=224, shards_at_once=WORKERS,
    )  # fmt: skip
    target = load_model(models["target"], torch.float32, torch.device("cpu"))
    for name, workers in (("here", Here()), ("there", crew)):
        stage = DataStage(config, tmp_path / name, target, torch.float32, (1, 3), workers)
        stage.write(2500)
        stage.cache()
    found = files_in(tmp_path / "here")
    assert files_in(tmp_path / "there") == found and len(found) >= 6
