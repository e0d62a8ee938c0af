"""The benchmark of the way to the first token: its clock, its report, and the order of its steps, with programs that
stand for Python, pip and ltd."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from result_views import waits

import first_token
from first_token import Waits, make_table, packages_of, run, wait_for_text

# Stands for the Python that makes environments. In them are a Python whose pip writes a report, and an ltd.
MAKER = """#!{python}
import pathlib, sys
programs = pathlib.Path(sys.argv[3]) / "bin"
programs.mkdir(parents=True)
for name in ("python", "ltd"):
    program = programs / name
    program.write_text(pathlib.Path({installed!r}).read_text())
    program.chmod(0o755)
"""
INSTALLED = """#!{python}
import json, os, pathlib, sys
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([name, arguments, dict(os.environ)]), file=log)
if "--report" in arguments:
    report = {{"environment": {{"python_full_version": "3.12.1"}}, "install": [
        {{"metadata": {{"name": "torch", "version": "2.13.0"}}, "download_info": {{"url": "file:///wheels/torch.whl"}}}},
        {{"metadata": {{"name": "numpy", "version": "2.3"}}, "download_info": {{"url": "https://a/numpy.whl"}}}}]}}
    pathlib.Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps(report))
if name == "ltd":
    print("Because")
"""


@pytest.fixture
def programs(tmp_path: Path) -> tuple[Path, Path]:
    """A Python that makes environments of those programs, and the file where they write how they were called."""
    installed, log, maker = tmp_path / "installed", tmp_path / "log", tmp_path / "maker"
    installed.write_text(INSTALLED.format(python=sys.executable, log=str(log)))
    maker.write_text(MAKER.format(python=sys.executable, installed=str(installed)))
    maker.chmod(0o755)
    return maker, log


@pytest.fixture
def calls(programs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[object]]:
    """The calls of two rounds, in an environment with variables of its own."""
    maker, log = programs
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"0" * 1_234_567)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("LTD_CPU_ISA", "baseline")
    first_token.main(wheel, tmp_path / "out", str(maker), None, rounds=2)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_round_installs_and_then_starts_twice(calls: list[list[object]], tmp_path: Path) -> None:
    words = [[name, *arguments] for name, arguments, _ in calls]  # type: ignore[misc]
    assert len(words) == 10 and [line[0] for line in words[:5]] == ["python", "python", "python", "ltd", "ltd"]
    assert words[0][-1] == str(tmp_path / "some.whl")
    assert all("--no-cache-dir" in line for line in words if line[0] == "python")
    assert words[3] == words[4] and words[3][1] == "generate"


def test_a_round_sees_nothing_of_the_one_before_or_of_this_process(calls: list[list[object]]) -> None:
    caches = [environment["XDG_CACHE_HOME"] for *_, environment in calls]  # type: ignore[index, call-overload]
    assert len(set(caches)) == 2 and caches[:5] == caches[:1] * 5
    for *_, environment in calls:
        assert not {"PYTHONPATH", "LTD_CPU_ISA"} & set(environment)  # type: ignore[call-overload]


def test_results_say_what_was_installed_and_the_table_is_theirs(calls: list[list[object]], tmp_path: Path) -> None:
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["wheel"], results["wheel_megabytes"], results["python"]) == ("some.whl", 1.2, "3.12.1")
    assert results["packages"] == {"numpy": "2.3", "torch": "2.13.0, a file here"}
    shown = {row[1] for row in make_table([Waits(**found) for found in results["rounds"]]).rows}
    assert {row["seconds"] for row in waits(results, None).values()} == shown


def test_what_counts_is_the_installation_and_the_first_start() -> None:
    table = make_table([Waits(1, 40, 7, 20, 5), Waits(2, 50, 9, 20, 6), Waits(3, 90, 8, 30, 4)])
    assert table.rows[-1] == ["pip install to the first token", "70.0", "60.0 70.0 120.0"]
    assert table.rows[0] == ["an empty virtual environment", "2.0", "1.0 2.0 3.0"]


def test_the_clock_stops_at_the_first_letter(tmp_path: Path) -> None:
    program = "import time; time.sleep(0.3); print('B', end='', flush=True); time.sleep(2); print('ecause')"
    assert 0.3 <= wait_for_text((sys.executable, "-c", program), {}, tmp_path / "errors") < 2


@pytest.mark.parametrize("program", ["pass", "import sys; print('half'); sys.exit('no model')"])
def test_a_start_without_an_answer_is_no_measurement(program: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no model" if "exit" in program else "printed nothing"):
        wait_for_text((sys.executable, "-c", program), {}, tmp_path / "errors")


def test_a_step_that_fails_says_what_it_printed() -> None:
    with pytest.raises(RuntimeError, match="no such package"):
        run((sys.executable, "-c", "import sys; sys.exit('no such package')"), {})


def test_packages_are_sorted_by_name() -> None:
    found = {"metadata": {"name": "b", "version": "1"}, "download_info": {"url": "https://x/b"}}
    other = {"metadata": {"name": "a", "version": "2"}, "download_info": {"url": "file:///a"}}
    assert list(packages_of({"install": [found, other]}).items()) == [("a", "2, a file here"), ("b", "1")]
