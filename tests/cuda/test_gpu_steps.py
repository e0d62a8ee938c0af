"""gpu-check's steps and where they run, as far as that needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpu_machine
import gpu_place
import gpu_steps
import system_python
from gpu_place import Place, StepError, UnsupportedError
from ltd import _C

OF_TORCH = {"typing_extensions"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(
        Path(sys.executable), system=True, prebuilt=False, architectures="90", logs=tmp_path / "logs", limit=60
    )


def test_products_are_looked_for_where_they_are_built(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_steps, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_place, "ROOT", tmp_path)
    for name, product in (
        ("build", tmp_path / "python" / "ltd" / "_C.cpython-312-x86_64-linux-gnu.so"),
        ("microbenchmarks' build", place.kernel_bench_file()),
    ):
        assert not gpu_steps.STEPS[name].is_built(place)
        product.parent.mkdir(parents=True)
        product.touch()
        assert gpu_steps.STEPS[name].is_built(place)


def test_the_operators_tests_need_no_more_than_they_import() -> None:
    """In a Python that has the modules of that step alone, beside torch's own."""
    others = set(system_python.PACKAGE) - set(gpu_steps.STEPS["operators' tests"].modules)
    script = f"""
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others - OF_TORCH}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Lacking())
import random_calls
from ltd import ops
"""
    paths = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": paths})


def test_a_module_without_cuda_kernels_is_no_build(place: Place) -> None:
    if _C.build_info()["cuda"]:
        pytest.skip("this build has them")
    place.prebuilt = True
    with pytest.raises(StepError, match="has no CUDA kernels"):
        gpu_steps.build(place)


def test_a_command_sees_what_it_is_built_for(place: Place) -> None:
    show = "import os; print(*(os.environ[name] for name in ('LTD_CUDA', 'LTD_CUDA_ARCHITECTURES', 'MORE')))"
    place.run("x", sys.executable, "-c", show, MORE="1")
    assert (place.logs / "x.log").read_text() == "ON 90 1\n"


def test_a_failed_command_shows_the_end_of_its_output(place: Place) -> None:
    with pytest.raises(StepError) as raised:
        place.run("x", sys.executable, "-c", "for i in range(30): print('line', i)\nraise SystemExit(3)")
    message = str(raised.value)
    assert "ended with exit code 3" in message and "line 29" in message and "line 14\n" not in message


def test_what_an_earlier_command_said_is_not_this_ones(place: Place) -> None:
    place.run("x", sys.executable, "-c", "print('yesterday')")
    with pytest.raises(StepError) as raised:
        place.run("x", sys.executable, "-c", "print('now'); raise SystemExit(3)")
    assert raised.value.output == "now\n"
    assert "now" in str(raised.value) and "yesterday" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("========= Error: Device not supported. Please refer to the documentation.", UnsupportedError),
        ("========= Invalid __global__ write of size 4 bytes", StepError),
    ],
)
def test_a_tool_that_cannot_watch_finds_no_fault(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[StepError]
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '{said}'\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_steps, "find_sanitizer", lambda _: str(tool))
    monkeypatch.setattr(Place, "kernel_bench", lambda _: tmp_path / "kernel_bench")
    with pytest.raises(StepError) as raised:
        gpu_steps.sanitize(place, "memcheck")
    assert type(raised.value) is kind


def test_a_command_that_takes_too_long_is_stopped_with_what_it_has_started(place: Place, tmp_path: Path) -> None:
    late = tmp_path / "late"
    inner = f"import time, pathlib; time.sleep(2); pathlib.Path({str(late)!r}).touch()"
    place.limit = 0.5
    start = time.monotonic()
    with pytest.raises(StepError, match=r"did not end within 0\.5 s"):
        place.run("x", "sh", "-c", f'"{sys.executable}" -c "{inner}" & wait')
    assert time.monotonic() - start < 2
    time.sleep(2.5)
    assert not late.exists()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_results_that_are_no_object_fail_the_step(place: Place, content: str | None) -> None:
    place.logs.mkdir()
    with pytest.raises(StepError, match=r"x\.json"):
        place.read_json("x", lambda file: None if content is None else file.write_text(content))


def test_the_digest_is_of_the_sources() -> None:
    assert gpu_machine.source_digest() == gpu_machine.source_digest()


def test_a_missing_sanitizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_place.shutil, "which", lambda *_, **__: None)
    with pytest.raises(StepError, match="compute-sanitizer was not found"):
        gpu_place.find_sanitizer(Path(sys.executable))
