"""gpu-check's bookkeeping, with steps that do nothing; what the steps do needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gpu_check
from gpu_check import StepError


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that have run; the third fails at first."""
    names: list[str] = []

    def step(name: str) -> dict | None:
        names.append(name)
        if name == "operators' tests" and names.count(name) == 1:
            raise StepError("it has to")
        return {"results": []} if name in ("microbenchmarks", "comparison") else None

    steps = {name: lambda name=name: step(name) for name in gpu_check.STEPS}
    (tmp_path / "bench" / "results").mkdir(parents=True)
    monkeypatch.setattr(gpu_check, "STEPS", steps)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "OUT", tmp_path / "out")
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: "NVIDIA Test 9")
    monkeypatch.setattr(gpu_check, "source_digest", lambda: "same")
    return names


def test_without_a_gpu_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, ran: list[str]
) -> None:
    monkeypatch.setattr(gpu_check, "gpu_name", lambda: None)
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err.splitlines() == ["gpu-check needs an NVIDIA GPU and its driver, and finds none here"]
    assert not ran


def test_a_second_run_goes_on(ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main([]) == 1
    assert ran == list(gpu_check.STEPS)
    content = json.loads((tmp_path / "bench" / "results" / "nvidia-test-9" / "results.json").read_text())
    assert [name for name, step in content["steps"].items() if not step["ok"]] == ["operators' tests"]
    assert "failed: it has to" in capsys.readouterr().out
    ran.clear()
    ran.append("operators' tests")
    assert gpu_check.main([]) == 0
    assert ran[1:] == ["operators' tests"]
    assert gpu_check.main([]) == 0
    assert len(ran) == 2
    assert gpu_check.main(["--fresh"]) == 0
    assert len(ran) == 2 + len(gpu_check.STEPS)


def test_a_changed_source_makes_all_run_again(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check.main([])
    ran.clear()
    monkeypatch.setattr(gpu_check, "source_digest", lambda: "other")
    gpu_check.main([])
    assert ran == list(gpu_check.STEPS)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "same"}'])
def test_a_step_whose_result_is_damaged_runs_again(ran: list[str], tmp_path: Path, content: str) -> None:
    gpu_check.main([])
    (tmp_path / "out" / "build.json").write_text(content)
    ran.clear()
    ran.append("operators' tests")
    assert gpu_check.main([]) == 0
    assert ran[1:] == ["build", "operators' tests"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_results_that_are_no_object_fail_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(gpu_check, "OUT", tmp_path)
    with pytest.raises(StepError, match=r"x-results\.json"):
        gpu_check.with_json("x", lambda file: None if content is None else file.write_text(content))


def test_without_a_build_nothing_else_is_tried(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StepError("no compiler")

    monkeypatch.setitem(gpu_check.STEPS, "build", fail)
    assert gpu_check.main([]) == 1
    assert not ran


def test_the_digest_is_of_the_sources() -> None:
    assert gpu_check.source_digest() == gpu_check.source_digest()


def test_a_missing_sanitizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    with pytest.raises(StepError, match="compute-sanitizer was not found"):
        gpu_check.find_sanitizer()
