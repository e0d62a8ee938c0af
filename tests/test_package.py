"""What is installed fits the torch that is there: what a build asks for and requires, and what is said if not."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ltd
from ltd.common import module
from ltd.common.module import _C, check_module, check_torch, series

ROOT = Path(__file__).parents[1]
METADATA = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "cmake", "python/ltd/__init__.py")
# As pip's environment for a build: the same Python, with a PYTHONPATH that hides what is installed.
HIDE_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
HERE = ".".join(torch.__version__.split(".")[:2])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("LTD_CUDA", "on", "LTD_CUDA is on, but must be AUTO, ON or OFF"),
        ("LTD_CUDA", "1", "LTD_CUDA is 1, but must be AUTO, ON or OFF"),
        ("LTD_INSTRUCTION_SETS", "avx2", "LTD_INSTRUCTION_SETS is avx2, but must be ALL or BASELINE"),
    ],
)
def test_what_a_build_is_not_known_to_take_is_refused(tmp_path: Path, option: str, value: str, message: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if any(shutil.which(name, path=path) is None for name in ("cmake", "ninja", "c++")):
        pytest.skip("there is no cmake, ninja and compiler")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", f"-D{option}={value}"]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and message in done.stderr


def test_an_empty_option_of_a_build_is_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> None:
        commands.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.syspath_prepend(ROOT / "cmake")
    extension = importlib.import_module("extension")
    monkeypatch.setattr(extension.subprocess, "run", run)
    for option in ("LTD_CUDA", "LTD_INSTRUCTION_SETS"):
        monkeypatch.setenv(option, "")
    with pytest.raises(subprocess.CalledProcessError):
        extension.build(tmp_path / "_C.so", "0")
    assert {"-DLTD_CUDA=AUTO", "-DLTD_INSTRUCTION_SETS=ALL"} <= set(commands[0])


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a package's metadata is made from."""
    folder = tmp_path / "sources"
    for name in METADATA:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, place)
    (folder / "rl").mkdir()
    return folder


def ask_backend(sources: Path, program: str, **environment: str) -> object:
    """What a hook of the build backend answers."""
    program = f"import json, sys; sys.path.insert(0, 'cmake'); import backend\n{program}"
    done = subprocess.run([sys.executable, "-c", program], cwd=sources, env=os.environ | environment, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_build_downloads_no_torch_beside_an_installed_one(sources: Path, tmp_path: Path) -> None:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text(HIDE_TORCH)
    program = "print(json.dumps([backend.missing_torch(), backend.installed_torch.describe().version]))"
    assert ask_backend(sources, program) == [[], str(torch.__version__)]
    hidden = ask_backend(sources, program, PYTHONPATH=str(hiding), PYTHONNOUSERSITE="1")
    assert hidden == [[], str(torch.__version__)]


def test_where_there_is_no_torch_a_build_asks_for_one(sources: Path) -> None:
    program = (
        "backend.installed_torch.DESCRIBE = 'import sys; sys.exit(3)'\nprint(json.dumps([backend.missing_torch()]))"
    )
    assert ask_backend(sources, program) == [["torch>=2.6"]]


def test_what_is_compiled_requires_its_series_of_torch(sources: Path, tmp_path: Path) -> None:
    made = ask_backend(sources, f"print(json.dumps(backend.prepare_metadata_for_build_wheel({str(tmp_path)!r})))")
    text = (tmp_path / str(made) / "METADATA").read_text(encoding="utf-8")
    required = re.findall(r"^Requires-Dist: (.*)$", text, flags=re.M)
    assert f"torch=={HERE}.*" in required and not [one for one in required if one.startswith("torch>")]
    assert "pydantic>=2.10" in required
    assert f"Version: {ltd.__version__}\n" in text and "Name: ltd-decoding\n" in text


def test_sources_require_any_torch_that_they_compile_with(sources: Path, tmp_path: Path) -> None:
    ask_backend(sources, f"backend.build_sdist({str(tmp_path)!r}); print('0')")
    (made,) = tmp_path.glob("ltd_decoding-*.tar.gz")
    shutil.unpack_archive(made, tmp_path)
    (facts,) = tmp_path.glob("ltd_decoding-*/PKG-INFO")
    assert "Requires-Dist: torch>=2.6\n" in facts.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("built", "here"), [("2.13.0+cpu", "2.13.1+cu130"), ("2.13.0", "2.13.0"), ("2.6.0", "2.6.0a0")]
)
def test_versions_of_a_series_fit(tmp_path: Path, built: str, here: str) -> None:
    (tmp_path / "built").write_text(f"{built}\n")
    check_torch(tmp_path / "built", here)


@pytest.mark.parametrize(("built", "here"), [("2.13.0+cpu", "2.1.3"), ("2.9.0", "2.10.0+cu130"), ("2.13.0", "3.13.0")])
def test_another_series_is_refused(tmp_path: Path, built: str, here: str) -> None:
    (tmp_path / "built").write_text(f"{built}\n")
    with pytest.raises(
        ImportError, match=rf"built for torch {re.escape(series(built))}, but torch {re.escape(here)} is"
    ):
        check_torch(tmp_path / "built", here)


def test_a_build_that_says_nothing_is_taken(tmp_path: Path) -> None:
    check_torch(tmp_path / "missing", "2.13.0")


def test_every_module_has_a_word_of_its_own_on_its_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(module, "check_torch", lambda built_for, version: looked.append(built_for))
    check_module()
    written = ask_backend(
        ROOT, f"import extension; print(json.dumps(str(extension.built_for(extension.Path({_C.__file__!r})))))"
    )
    assert [str(written)] == [str(file) for file in looked]
    assert Path(str(written)).name.startswith(f"_C.{sys.implementation.cache_tag}")


def test_a_missing_module_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltd.common.module.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="ltd has no kernels for this Python; build them"):
        check_module()


def test_the_command_line_says_so_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "ltd"
    folder.mkdir()
    for file in Path(str(ltd.__file__)).parent.iterdir():
        if file.suffix != ".torch":
            (folder / file.name).symlink_to(file)
    (folder / Path(str(_C.__file__)).with_suffix(".torch").name).write_text("1.0.0\n")
    done = subprocess.run([sys.executable, "-m", "ltd", "info"], cwd=tmp_path, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=False)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the kernels of ltd were built for torch 1.0, but torch ")


def test_the_version_is_named_once_for_all() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"', text, flags=re.M)[1] == ltd.__version__  # type: ignore[index]
