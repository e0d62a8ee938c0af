"""The source distribution: it holds what the module is built from, and what is installed from it decodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("csrc", "cmake", "python", "rl/ltd_rl")
NOT_SOURCES = {".so", ".torch", ".pyc"}
# An unoptimised module without what a debugger wants to know compiles in a fraction of the time.
FAST_BUILD = "[build_ext]\ndebug = 1\n"
NO_SYMBOLS = 'set(CMAKE_CXX_FLAGS_DEBUG "" CACHE STRING "")\n'
DECODE = """
import sys, ltd
decoder = ltd.load(sys.argv[1], sys.argv[2], dtype="float32")
import ltd._C  # behind torch, whose libraries it needs
print(*ltd.ops.build_info()["cpu_isas"])
print(ltd.__file__, ltd._C.__file__, sep="\\n")
print(*decoder.generate([5, 9, 20], max_new_tokens=8).token_ids)
"""


def run(*command: str | Path, folder: Path, **more: str) -> str:
    """What a command prints, or a failure with all that it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=clean | more, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of what git tracks here, with today's content."""
    folder = tmp_path_factory.mktemp("sdist")
    checkout = folder / "checkout"
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=ROOT).splitlines():
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, folder=checkout)
    (found,) = folder.glob("*.tar.gz")
    return found


def test_every_source_file_is_in_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(file.relative_to(ROOT)) for folder in SOURCES for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in NOT_SOURCES}  # fmt: skip
    assert len(wanted) > 250 and any(name.endswith(".cu") for name in wanted)
    assert wanted - held == set()
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "NOTICE", "README.md"} <= held
    assert not [name for name in held if Path(name).suffix in NOT_SOURCES]


def test_what_is_installed_from_it_decodes(
    sdist: Path, tmp_path: Path, tiny_target: Callable[..., Path], tiny_head: Callable[..., Path]
) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None and "CXX" not in os.environ:
        pytest.skip("there is no C++ compiler")
    python = fresh_environment(tmp_path / "environment")
    fast, no_symbols = tmp_path / "fast.cfg", tmp_path / "no_symbols.cmake"
    fast.write_text(FAST_BUILD)
    no_symbols.write_text(NO_SYMBOLS)
    build = {
        "DIST_EXTRA_CONFIG": str(fast),
        "CMAKE_TOOLCHAIN_FILE": str(no_symbols),
        "LTD_CUDA": "OFF",
        # The other instruction sets are compiled from the same files, which the test before this looks for.
        "LTD_INSTRUCTION_SETS": "BASELINE",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # cmake and ninja
    }
    # Nothing that is installed elsewhere is looked at, much less removed.
    options = ("--no-index", "--no-build-isolation", "--no-deps", "--ignore-installed")
    run(python, "-m", "pip", "install", *options, sdist, folder=tmp_path, **build)
    models = str(tiny_target("llama")), str(tiny_head("llama"))
    kernels, *places, token_ids = run(python, "-c", DECODE, *models, folder=tmp_path).splitlines()[-4:]
    assert kernels == "baseline"
    assert all(Path(place).is_relative_to(tmp_path / "environment") for place in places)
    here = run(sys.executable, "-c", DECODE, *models, folder=tmp_path, PYTHONPATH=path_here())
    assert token_ids == here.splitlines()[-1]


def fresh_environment(folder: Path) -> Path:
    """The Python of a new virtual environment that has this one's packages but not its ltd."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    python = folder / "bin/python"
    places = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    # Behind the environment's own packages, so that its ltd goes first.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(places.strip()) / "packages_of_the_tests.pth").write_text("\n".join(sorted(here)) + "\n")
    return python


def path_here() -> str:
    """Where this test's own ltd is imported from."""
    import ltd

    assert ltd.__file__ is not None
    return str(Path(ltd.__file__).parents[1])
