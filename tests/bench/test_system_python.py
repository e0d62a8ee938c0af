"""`make SYSTEM=1`: what a Python that is not ours lacks is one sentence, for every target of the Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import system_python

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert system_python.main(["neither"]) == 2
    assert capsys.readouterr().err == "usage: system_python.py packages|dev|lint|docs|demo|wheel|vllm\n"
    for purpose, name in (("dev", "TESTS"), ("docs", "SITE"), ("demo", "DEMO"), ("packages", "BUILD")):
        monkeypatch.setattr(system_python, name, ("pytest", "no_such_module"))
        assert system_python.main([purpose]) == 1
        assert re.fullmatch(r"\S+ is used as it is \(SYSTEM\), but lacks .*no_such_module.*\n", capsys.readouterr().err)
    monkeypatch.setattr(system_python, "STYLE", ("no-such-program",))
    assert system_python.main(["lint"]) == 1
    assert capsys.readouterr().err.endswith("no-such-program\n")


def test_the_makefile_asks_for_what_is_known() -> None:
    assert set(re.findall(r"\$\(STAMPS\)/\.stamp-([a-z]+)", MAKEFILE)) - {"ltd"} == set(system_python.MISSING)


def planned(*targets: str, system: str) -> str:
    """What make would do."""
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}  # of a make above
    command = ["make", "-n", f"SYSTEM={system}", f"PYTHON={sys.executable}", *targets]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "purpose"), [("test", "dev"), ("sanitize", "dev"), ("lint", "lint"), ("demo", "demo")]
)
def test_what_a_python_lacks_is_asked_before_anything_is_compiled(target: str, purpose: str) -> None:
    plan = planned(target, system="1")
    assert 0 <= plan.find(f"system_python.py {purpose}\n") < plan.find("compiling the kernels")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("system", ["", "1"])
def test_there_are_rules_for_every_public_target(system: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, flags=re.M))
    assert {"demo", "test", "docs", "lint", "gpu-check"} <= targets
    assert planned(*sorted(targets), system=system)


def asked_of_make(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What make plans, or refuses, with an environment in that folder."""
    command = ["make", "-n", *options, f"VENV={folder}"]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_environment_of_another_python_is_not_passed_off_as_it(tmp_path: Path) -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    other = tmp_path / "python2.1"
    other.write_text("#!/bin/sh\necho 2.1\n")
    other.chmod(0o755)
    place = tmp_path / "place"
    assert asked_of_make(place, f"PYTHON={other}").returncode == 0  # there is none yet
    (place / "bin").mkdir(parents=True)
    (place / "bin/python").symlink_to(sys.executable)
    assert asked_of_make(place, f"PYTHON={sys.executable}").returncode == 0
    refused = asked_of_make(place, f"PYTHON={other}")
    assert refused.returncode == 2
    assert f"{place} was made with Python {here}, but {other} is 2.1; remove it, or name another" in refused.stderr
    assert "python0.0 is not installed" in asked_of_make(place, "PYTHON=python0.0").stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_environment_with_another_torch_is_not_passed_off_as_it(tmp_path: Path) -> None:
    made, other = "torch==2.13.0 --index-url URL", "torch==2.13.0"
    assert asked_of_make(tmp_path, "install", f"TORCH={other}").returncode == 0  # there is none yet
    (tmp_path / ".stamp-torch").write_text(f"{made}\n")
    for goal, options in (("install", ()), ("install", (f"TORCH={made}",)), ("clean", (f"TORCH={other}",))):
        assert asked_of_make(tmp_path, goal, *options).returncode == 0
    assert asked_of_make(tmp_path, "vllm-check", f"TORCH={other}").returncode == 0  # that is another environment's
    for refused in (asked_of_make(tmp_path, "test", f"TORCH={other}"), asked_of_make(tmp_path, "test", TORCH=other)):
        assert refused.returncode == 2
        assert f'{tmp_path} was made with TORCH="{made}", but "{other}" is asked for; remove it' in refused.stderr
