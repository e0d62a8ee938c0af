"""Work in units: in this process, what workers must have in common, and how nodes are shared out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltd.common import ray_crew, ray_nodes, ray_workers
from ltd.common.command import with_values
from ltd.common.ray_crew import open_crew
from ltd.common.ray_nodes import Node, as_node, check_alike, check_node, own_versions, share_out, shared_facts
from ltd.common.ray_workers import Worker
from ltd.common.workers import LARGE_FILE, Here, absolute, fingerprint, local_paths
from ltd.errors import InputError

NODE = Node("1", "one", 8, 0, None, 4, "AVX2", {"processor": "P", "cores": 8, "threads": 4, "torch": "2"})


@dataclass
class Counted:
    """Gives every number so many times, and counts how often it was opened."""

    opened: int = 0
    files: tuple[Path, ...] = ()

    def open(self) -> Callable[[int], Iterator[str]]:
        self.opened += 1
        return lambda number: (f"{number}.{part}" for part in range(number))


def test_here_does_one_unit_after_the_other() -> None:
    crew, job = Here(), Counted()
    assert list(crew.do(job, [2, 0, 1])) == ["2.0", "2.1", "1.0"]
    assert list(crew.do(job, [1])) == ["1.0"] and job.opened == 1
    other = Counted()
    assert list(crew.do(other, [])) == [] and other.opened == 1
    assert (crew.is_remote, crew.size) == (False, 1)
    assert crew.machine_facts().keys() >= {"processor", "threads", "torch"}


def test_here_gives_results_as_they_come() -> None:
    results = Here().do(Counted(), [1, 3])
    assert next(results) == "1.0"
    assert next(results) == "3.0"
    results.close()  # type: ignore[attr-defined]


# --- files ---


def test_fingerprints_tell_folders_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "part").mkdir(parents=True)
        (folder / "part" / "weights").write_bytes(b"12")
        (folder / "config.json").write_text("{}")
    assert fingerprint(one) == fingerprint(other) is not None
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert fingerprint(one) == fingerprint(other)
    (other / "part" / "weights").write_bytes(b"13")
    assert fingerprint(one) != fingerprint(other)
    (other / "part" / "weights").write_bytes(b"12")
    (other / "config.json").rename(other / "other.json")
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(tmp_path / "nothing") is None


def test_large_files_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(LARGE_FILE + 1)
    assert fingerprint(file) == f"{LARGE_FILE + 1} bytes"


def test_names_mean_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("model") == str(tmp_path / "model")
    assert absolute("owner/model") == "owner/model" and absolute(None) is None
    assert local_paths("model", None, "owner/model", Path("model")) == [tmp_path / "model"] * 2


def test_a_worker_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ray_workers.GIVEN_NUMBERS:
        monkeypatch.setenv(name, "7")  # which a worker sets, and this test's end takes back
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    (tmp_path / "model").write_text("1")
    worker, job = Worker(3), pickle.dumps(Counted())
    assert told == [3] and {os.environ[name] for name in ray_workers.GIVEN_NUMBERS} == {"3"}
    assert worker.open(0, job, {str(tmp_path / "model"): fingerprint(tmp_path / "model")}) == []
    assert pickle.loads(worker.do(pickle.dumps(2))) == ["2.0", "2.1"]
    with pytest.raises(InputError, match=r"model is not the same as on the first machine"):
        worker.open(1, job, {str(tmp_path / "model"): "another"})
    with pytest.raises(InputError, match=r"nothing is missing"):
        worker.open(1, job, {str(tmp_path / "nothing"): "another"})


# --- nodes ---


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ltd": None}, "node far of Ray has no ltd; install ltd"),
        ({"ltd": "9.9"}, "node far of Ray has ltd 9.9, but this is ltd"),
        ({"sources": "other"}, "node far of Ray has other sources of ltd"),
        ({"torch": "1.0"}, "node far of Ray has torch 1.0, but here is"),
        ({"torch": None}, "node far of Ray has torch None, but here is"),
        ({"error": "no kernels"}, "node far of Ray cannot use ltd: no kernels"),
    ],
)
def test_a_node_with_something_else_is_named(changes: dict[str, Any], complaint: str) -> None:
    here = own_versions()
    check_node("far", here, here)
    with pytest.raises(InputError, match=complaint):
        check_node("far", here | changes, here)


def test_nodes_that_compute_differently_are_refused() -> None:
    other = replace(NODE, name="two", unit="AVX-512")
    check_alike([NODE, NODE], gpu=False)
    check_alike([NODE, other], gpu=True)
    with pytest.raises(InputError, match="node one of Ray computes with AVX2 and node two with AVX-512"):
        check_alike([NODE, NODE, other], gpu=False)
    with pytest.raises(InputError, match=r"computes with None and node two with H100, .* use nodes with the same GPU"):
        check_alike([NODE, replace(other, gpu="H100")], gpu=True)


def test_a_worker_has_all_of_a_node_by_default() -> None:
    (share,) = share_out([NODE], None, gpu=False)
    assert (share.cpus, share.threads) == (8, 4)  # processors for Ray, cores for threads
    shares = share_out([NODE, replace(NODE, cpus=3)], 2, gpu=False)
    assert [(share.node.cpus, share.cpus, share.threads) for share in shares] == [(8, 2, 2)] * 4 + [(3, 2, 2)]
    shares = share_out([replace(NODE, gpus=2)], None, gpu=True)
    assert [(share.cpus, share.threads) for share in shares] == [(4, 4)] * 2


@given(
    nodes=st.lists(st.builds(replace, st.just(NODE), cpus=st.integers(0, 9), gpus=st.integers(0, 3)), max_size=4),
    cpus=st.none() | st.integers(1, 5),
    gpu=st.booleans(),
)
def test_no_processor_is_given_twice(nodes: list[Node], cpus: int | None, gpu: bool) -> None:
    nodes = [replace(node, id=str(place)) for place, node in enumerate(nodes)]
    fitting = [node for node in nodes if node.cpus >= (cpus or 1) and (node.gpus or not gpu)]
    if not fitting:
        with pytest.raises(InputError, match="no node of Ray has"):
            share_out(nodes, cpus, gpu)
        return
    shares = share_out(nodes, cpus, gpu)
    assert {share.node.id for share in shares} == {node.id for node in fitting}
    for node in fitting:
        mine = [share for share in shares if share.node.id == node.id]
        assert sum(share.cpus for share in mine) <= node.cpus and (not gpu or len(mine) <= node.gpus)
        assert all(share.cpus >= 1 and 1 <= share.threads <= node.processors for share in mine)
        assert cpus is None or all(share.cpus == cpus for share in mine)


def test_only_shared_facts_are_the_machines() -> None:
    other = replace(NODE, facts={**NODE.facts, "processor": "Q"})
    facts = shared_facts(share_out([NODE, other], 2, gpu=False), gpu=False)
    assert facts == {"cores": 8, "threads": 2, "torch": "2"}
    assert shared_facts(share_out([NODE], None, gpu=False), gpu=False) == NODE.facts
    card = replace(NODE, gpus=1, gpu="H100")
    assert shared_facts(share_out([card], None, gpu=True), gpu=True)["gpu"] == "H100"


def test_ray_names_its_nodes() -> None:
    said = {"NodeID": "7", "NodeManagerHostname": "far", "Resources": {"CPU": 4.0, "GPU": 2.0, "accelerator_type:A": 1}}
    found = as_node(said, {"processors": 2, "unit": "AMX", "machine": {"cores": 4}})
    assert found == Node("7", "far", 4, 2, "A", 2, "AMX", {"cores": 4})
    assert as_node({**said, "Resources": {}}, {"processors": 2, "unit": "AMX", "machine": {}}).gpu is None


def test_a_probe_tells_versions() -> None:
    assert ray_nodes.probe_of("no_such_package")() == {"ltd": None, "torch": None}
    found = ray_nodes.probe_of("ltd")()
    assert {name: found[name] for name in own_versions()} == own_versions()
    assert found["processors"] >= 1 and found["unit"] and found["machine"]["processor"]


# --- options ---


def test_without_ray_nothing_of_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_crew.importlib.util, "find_spec", lambda name: None)
    with open_crew(None, None, lambda: pytest.fail("nobody asked")) as crew:
        assert not crew.is_remote
    with (
        pytest.raises(InputError, match="--ray needs the package ray, which is not installed"),
        open_crew("local", None, bool),
    ):
        pass
    with pytest.raises(InputError, match="leave it out, or add --ray"), open_crew(None, 2, bool):
        pass


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--ray", "--ray local"),
        ("--ray --out x", "--ray local --out x"),
        ("--ray far:1 --out x", "--ray far:1 --out x"),
        ("--out x --ray", "--out x --ray local"),
        ("--ray=far:1 --out x", "--ray=far:1 --out x"),
        ("--rays --out x", "--rays --out x"),
        ("", ""),
    ],
)
def test_an_address_may_be_left_out(words: str, meant: str) -> None:
    assert with_values(words.split(), {"--ray": "local"}) == meant.split()
