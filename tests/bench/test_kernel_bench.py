"""The program of microbenchmarks: what it is asked for, what it shows and writes; no test here looks at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
FAST = ("--device=cpu", "--seconds=0.0001", "--repetitions=3")


@pytest.fixture(scope="module")
def program() -> Path:
    """Built from the objects of the package's own build."""
    if not (BUILD / "CMakeCache.txt").is_file():
        pytest.skip(f"the package was not built in {BUILD}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if any(shutil.which(name, path=path) is None for name in ("cmake", "ninja")):
        pytest.skip("there is no cmake and ninja")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DLTD_BENCH=ON"],
        ["cmake", "--build", str(BUILD), "--target", "kernel_bench"],
    ):
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / "bench" / "kernels" / "kernel_bench"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_results_are_shown_and_written(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    done = run(program, *FAST, "--filter=^cpu/(commit_path|select_tree)", f"--json={file}")
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    (device,) = content["devices"]
    assert device["name"] == "cpu" and device["gb_per_s"] > 0
    assert content["failures"] == []
    names = [line["name"] for line in content["results"]]
    assert {name.split("/")[1] for name in names} == {"commit_path", "select_tree"}
    assert all(name in done.stdout for name in names)
    for line in content["results"]:
        assert 0 < line["low_us"] <= line["median_us"] <= line["high_us"]
        assert line["samples"] >= 3 and line["gb_per_s"] > 0 and line["floor_share"] > 0


def test_a_filter_also_finds_what_is_unusual(program: Path) -> None:
    done = run(program, *FAST, "--filter=tree_attention/1B/prefix:256/V:20$")
    assert done.returncode == 0
    assert done.stdout.count("tree_attention") == 1


def test_every_operator_runs_once(program: Path) -> None:
    done = run(program, "--once", "--device=cpu")
    assert done.returncode == 0
    names = done.stdout.split()
    operators = [name.split("/")[1] for name in names]
    assert len(set(operators)) == len(operators) >= 12


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--benchmark_filter=x", "--benchmark_filter=x is unknown; there are --json=FILE"),
        ("--filter=(", "--filter=( is no regular expression"),
        ("--seconds=soon", "--seconds=soon must have a number above 0"),
        ("--repetitions=0", "--repetitions=0 must have a whole number from 1 to 100000"),
        ("--repetitions=0.5", "--repetitions=0.5 must have a whole number from 1 to 100000"),
        ("--repetitions=100001", "--repetitions=100001 must have a whole number from 1 to 100000"),
        ("--repetitions=", "--repetitions= must have a whole number from 1 to 100000"),
        ("--device=tpu", "--device=tpu is unknown; there are cpu and cuda"),
    ],
)
def test_what_is_not_understood_is_refused(program: Path, argument: str, words: str) -> None:
    done = run(program, argument)
    assert done.returncode == 2 and words in done.stderr


def test_a_file_that_cannot_be_written_is_named(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "no folder" / "kernels.json"
    done = run(program, *FAST, "--filter=^cpu/commit_path/1B", f"--json={file}")
    assert done.returncode == 1 and f"{file} cannot be written" in done.stderr
