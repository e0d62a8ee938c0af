"""Threads that take work: the same results whoever comes late, no race, no hang where threads are missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "tests/engine/team_program.cpp", ROOT / "csrc/common/team.cpp")
COMPILER = shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def build(folder: Path, *options: str) -> Path:
    program = folder / "team_program"
    command = [str(COMPILER), "-std=c++20", "-O1", "-g1", "-pthread", f"-I{ROOT / 'csrc'}", *options]
    done = subprocess.run([*command, *map(str, SOURCES), "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("team"))


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ThreadSanitizer, where the compiler has it and it runs here."""
    folder = tmp_path_factory.mktemp("watched_team")
    (folder / "empty.cpp").write_text("int main() {}")
    command = [str(COMPILER), "-fsanitize=thread", str(folder / "empty.cpp"), "-o", str(folder / "empty")]
    if subprocess.run(command, capture_output=True).returncode or subprocess.run([folder / "empty"]).returncode:
        pytest.skip("ThreadSanitizer does not run here")
    return build(folder, "-fsanitize=thread")


def run(program: Path, what: str) -> None:
    done = subprocess.run([program, what], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{what}: {done.returncode}\n{done.stderr}"


@pytest.mark.parametrize("what", ["jobs", "callers", "forked", "without threads"])
def test_results_do_not_depend_on_the_threads(plain: Path, what: str) -> None:
    run(plain, what)


@pytest.mark.parametrize("what", ["jobs", "callers"])
def test_no_races(watched: Path, what: str) -> None:
    run(watched, what)
