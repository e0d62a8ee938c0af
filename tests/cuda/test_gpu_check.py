"""gpu-check's bookkeeping, with steps that do nothing; what the steps do needs a GPU."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import gpu_check
import gpu_steps
import system_python
from gpu_machine import Gpu
from gpu_place import Place, StepError, UnsupportedError
from gpu_steps import Step

NAMES = list(gpu_steps.STEPS)


def results_in(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def make_step(
    run: Callable[[Place], object], usual: float = 0.0, after: tuple[str, ...] = (), modules: tuple[str, ...] = ()
) -> Step:
    return Step(run, usual=usual, limit=60, after=after, modules=modules)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that have run; the second fails at first."""
    names: list[str] = []

    def step(name: str) -> dict | None:
        names.append(name)
        if name == "operators' tests" and names.count(name) == 1:
            raise StepError("it has to\n    with its log")
        return {"results": []} if name in ("microbenchmarks", "comparison") else None

    steps = {
        name: make_step(lambda _, name=name: step(name), after=real.after) for name, real in gpu_steps.STEPS.items()
    }
    monkeypatch.setattr(gpu_steps, "STEPS", steps)
    monkeypatch.setattr(gpu_check, "write_mark", lambda _: names.append("mark"))
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "KEPT", tmp_path / "out")
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: Gpu("NVIDIA Test 9", "90"))
    monkeypatch.setattr(gpu_check, "source_digest", lambda: "same")
    return names


def test_without_a_gpu_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, ran: list[str]
) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: None)
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err.splitlines() == ["gpu-check needs an NVIDIA GPU and its driver, and finds none here"]
    assert not ran


def test_a_rehearsal_goes_on_without_one(monkeypatch: pytest.MonkeyPatch, ran: list[str], tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: None)
    gpu_check.main(["--rehearse"])
    assert ran == NAMES
    assert results_in(tmp_path / "out")["gpu"] == "no GPU"


def test_a_system_without_headers_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, ran: list[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(system_python.sysconfig, "get_path", lambda _: str(tmp_path))
    assert gpu_check.main(["--system"]) == 2
    assert f"there is no {tmp_path}/Python.h (of python3-dev)" in capsys.readouterr().err
    assert not ran


def test_a_second_run_goes_on(ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main([]) == 1
    assert ran == NAMES
    content = results_in(tmp_path / "bench" / "results" / "nvidia-test-9")
    assert [name for name, step in content["steps"].items() if step["state"] != "ok"] == ["operators' tests"]
    assert content["steps"]["operators' tests"]["message"] == "it has to\n    with its log"
    assert "failed: it has to\n" in capsys.readouterr().out
    ran.clear()
    ran.append("operators' tests")
    assert gpu_check.main([]) == 0
    assert ran[1:] == ["operators' tests", "mark"]
    assert gpu_check.main([]) == 0
    assert ran[3:] == ["mark"]
    assert gpu_check.main(["--fresh"]) == 0
    assert ran[4:] == [*NAMES, "mark"]
    assert "ltd decodes on this GPU from now on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "marked"), [("decoding", False), ("memcheck", False), ("comparison", True), ("", True)]
)
def test_a_gpu_that_has_failed_a_check_is_not_marked(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, name: str, marked: bool
) -> None:
    def fail(_: Place) -> None:
        raise StepError("wrong")

    ran.append("operators' tests")  # which then succeeds
    if name:
        monkeypatch.setitem(gpu_steps.STEPS, name, make_step(fail))
    gpu_check.main([])
    assert ("mark" in ran) == marked


def test_what_was_left_out_keeps_no_gpu_from_being_marked(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran.append("operators' tests")
    monkeypatch.setitem(gpu_steps.STEPS, "comparison", make_step(lambda _: None, usual=1e9))
    assert gpu_check.main(["--budget", "1000"]) == 1
    assert "mark" in ran and "comparison" not in ran


def test_what_this_machine_cannot_do_is_left_out(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Place) -> None:
        raise UnsupportedError("no counters here")

    ran.append("operators' tests")
    monkeypatch.setitem(gpu_steps.STEPS, "racecheck", make_step(refuse))
    assert gpu_check.main([]) == 1
    step = results_in(tmp_path / "bench" / "results" / "nvidia-test-9")["steps"]["racecheck"]
    assert step["state"] == "left out" and step["message"] == "no counters here"
    assert "mark" in ran


def test_a_mark_that_cannot_be_written_is_said(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(_: Place) -> None:
        raise StepError("no space")

    ran.append("operators' tests")
    monkeypatch.setattr(gpu_check, "write_mark", fail)
    assert gpu_check.main([]) == 0
    shown = capsys.readouterr()
    assert "no mark in the cache: no space" in shown.err and "from now on" not in shown.out


def test_a_changed_source_makes_all_run_again(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check.main([])
    ran.clear()
    monkeypatch.setattr(gpu_check, "source_digest", lambda: "other")
    gpu_check.main([])
    assert ran == NAMES


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "same"}'])
def test_a_step_whose_result_is_damaged_runs_again(ran: list[str], tmp_path: Path, content: str) -> None:
    gpu_check.main([])
    (tmp_path / "out" / "build.json").write_text(content)
    ran.clear()
    ran.append("operators' tests")
    assert gpu_check.main([]) == 0
    assert ran[1:] == ["build", "operators' tests", "mark"]


def test_results_are_there_after_every_step(ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def look(_: Place) -> None:
        file = tmp_path / "mine" / "results.json"
        seen.append(list(json.loads(file.read_text())["steps"]) if file.is_file() else [])

    names = ("build", "one", "two")
    monkeypatch.setattr(gpu_steps, "STEPS", {name: make_step(look) for name in names})
    assert gpu_check.main(["--out", str(tmp_path / "mine")]) == 0
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == ["results.json", "results.tgz"]
    assert seen == [[], ["build"], ["build", "one"]]
    assert list(results_in(tmp_path / "mine")["steps"]) == list(names)


def test_one_archive_holds_the_results_and_the_logs_after_every_step(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def log(place: Place) -> None:
        if (file := tmp_path / "mine" / "results.tgz").is_file():
            with tarfile.open(file) as archive:
                seen.append(set(archive.getnames()))
        place.logs.mkdir(exist_ok=True)
        (place.logs / f"{len(seen)}.log").write_text("said")

    monkeypatch.setattr(gpu_steps, "STEPS", {name: make_step(log) for name in ("build", "one", "two")})
    assert gpu_check.main(["--out", str(tmp_path / "mine")]) == 0
    assert seen == [
        {"results.json", "0.log", "build.json"},
        {"results.json", "0.log", "build.json", "1.log", "one.json"},
    ]


@pytest.mark.parametrize("name", ["build", "microbenchmarks' build"])
def test_a_step_whose_product_is_gone_runs_again(ran: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ran.append("operators' tests")
    assert gpu_check.main([]) == 0
    ran[:] = ["operators' tests"]
    monkeypatch.setitem(gpu_steps.STEPS, name, replace(gpu_steps.STEPS[name], is_built=lambda _: False))
    assert gpu_check.main([]) == 0
    assert ran[1:] == [name, "mark"]


def test_what_does_not_fit_into_the_budget_is_left_out(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    steps = {
        "build": make_step(lambda _: done.append("build")),
        "long": make_step(lambda _: done.append("long"), usual=1000.0),
        "short": make_step(lambda _: done.append("short"), usual=1.0),
        "after it": make_step(lambda _: done.append("after it"), after=("long",)),
    }
    monkeypatch.setattr(gpu_steps, "STEPS", steps)
    assert gpu_check.main(["--budget", "900"]) == 1
    assert done == ["build", "short"]
    content = results_in(tmp_path / "bench" / "results" / "nvidia-test-9")
    assert content["budget_s"] == 900
    assert content["steps"]["long"]["state"] == "left out"
    assert "of the budget are left, and it takes about 1000 s" in content["steps"]["long"]["message"]
    assert content["steps"]["after it"]["message"] == "it needs long, which has not succeeded"


def test_a_step_may_take_what_is_left_of_the_budget(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(gpu_steps, "STEPS", {"build": make_step(lambda place: limits.append(place.limit))})
    gpu_check.main(["--budget", "30"])
    gpu_check.main(["--fresh"])
    assert 29 < limits[0] <= 30 and limits[1] == 60


def test_what_is_not_installed_is_said_first(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    steps = {"build": make_step(lambda _: None), "other": make_step(lambda _: None, modules=("no_such_module",))}
    monkeypatch.setattr(gpu_steps, "STEPS", steps)
    monkeypatch.setattr(gpu_check, "missing_headers", list)
    assert gpu_check.main(["--system"]) == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "gpu-check: other will be left out; not installed here: no_such_module"
    content = results_in(tmp_path / "bench" / "results" / "nvidia-test-9")
    assert content["budget_s"] == gpu_check.SYSTEM_BUDGET
    assert content["steps"]["other"]["state"] == "left out"


def test_what_was_brought_along_needs_no_compiler(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def see(place: Place) -> None:
        assert place.system and place.prebuilt

    compiler = Step(see, usual=0, limit=60, programs=("no-such-compiler",), compiles=True, after=())
    monkeypatch.setattr(gpu_steps, "STEPS", {"build": compiler})
    monkeypatch.setattr(gpu_check, "missing_headers", lambda: ["Python.h"])
    assert gpu_check.main(["--prebuilt"]) == 0
    assert gpu_check.main(["--system", "--fresh"]) == 2


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "soon"])
def test_a_bad_budget_is_refused(budget: str) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--budget", budget])
    assert ended.value.code == 2


def test_without_a_build_what_needs_it_is_left_out(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: Place) -> None:
        raise StepError("no compiler")

    monkeypatch.setitem(gpu_steps.STEPS, "build", make_step(fail))
    assert gpu_check.main([]) == 1
    assert ran == ["compile report"]
