"""Where the operating system says no: one sentence and an exit code, and nothing half-written."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import ltd
from ltd.cli import main
from ltd.common.files import cache_folder, cached, expand_user, write_bytes, written_whole
from ltd.common.journal import Journal
from ltd.common.program import run_program
from ltd.common.shards import write_shard
from ltd.errors import InputError
from ltd.policies.learned.store import kept_bundle
from ltd.policy_choice import setting_of
from ltd.target import locate
from ltd.training.loop import save_state

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
FULL = Path("/dev/full")


def started(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """`ltd` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ltd", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **settings.pop("env", {})},
        **settings,
    )


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file of this process can be larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the output ---


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["methods"], ["methods", "--markdown"], ["--help"], ["--version"]])
def test_a_full_disk_behind_the_output_is_one_sentence(arguments: list[str]) -> None:
    with FULL.open("w") as full:
        process = started(*arguments, stdout=full)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == "error: cannot use the output: No space left on device; free some space and run it again\n"


@pytest.mark.parametrize("arguments", [["methods"], ["--help"]])
def test_a_closed_pipe_is_one_sentence(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = started(*arguments, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (141, "error: nobody reads the output any more, so it ends here\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LTD_CPU_ISA", "LTD_CPU_ISA is 'foo' but must be one of baseline, avx2, avx512, avx512_bf16, amx_bf16"),
        ("OMP_NUM_THREADS", "OMP_NUM_THREADS is 'foo', but must be a positive whole number of threads, at most 1024"),
    ],
)
def test_a_wrong_environment_variable_is_one_sentence(name: str, message: str) -> None:
    process = started("info", stdout=subprocess.DEVNULL, env={name: "foo"})
    _, err = process.communicate(timeout=120)
    ours = [line for line in err.splitlines() if line and not line.startswith("libgomp: ")]  # OpenMP says something too
    assert (process.returncode, ours) == (2, [f"error: {message}"])


def test_errors_of_the_output_need_no_standard_error() -> None:
    """Where both are full or closed, the exit code is all that is left."""
    program = "import sys, os; from ltd.cli import main; sys.exit(main(['methods']))"
    for redirection, code in ((">/dev/full 2>/dev/full", 2), (">&- 2>&-", 0), (">/dev/full 2>&-", 2)):
        line = f'exec "{sys.executable}" -c "{program}" {redirection}'
        assert subprocess.run(["sh", "-c", line], env=ENVIRONMENT, check=False).returncode == code


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_that_the_output_lacks_are_escaped_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encoding: str, errors: str
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors=errors)
    monkeypatch.setattr(sys, "stdout", stream)

    def answer() -> None:
        for piece in ("abc τ", "\N{GRINNING FACE}", "end\n"):
            print(piece, end="", flush=True)

    assert run_program(answer) == 0
    assert written.getvalue() == b"abc \\u03c4\\U0001f600end\n"
    told = capsys.readouterr().err
    assert (
        told.count("\n") == 1 and told.startswith("warning: the output's encoding") and encoding.split("-")[0] in told
    )


def test_characters_that_the_output_has_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8", errors="strict"))
    assert run_program(lambda: print("τ \N{GRINNING FACE} \udcff", flush=True)) == 0
    assert written.getvalue() == "τ \N{GRINNING FACE} ".encode() + b"\\udcff\n"


# --- any command ---


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "cannot use /x/y: Permission denied; name a place that"),
        (OSError(28, "No space left on device", "/x/y"), "cannot use /x/y: No space left on device; free some space"),
        (OSError(30, "Read-only file system", "/x/y"), "cannot use /x/y: Read-only file system; name a place that is"),
        (OSError(5, "Input/output error", "/x/y"), "cannot use /x/y: Input/output error"),
        (IsADirectoryError(21, "Is a directory", "/x/y"), "cannot use /x/y: Is a directory"),
        (OSError("a library's own\n  words"), "a library's own words"),
    ],
)
def test_an_error_of_the_system_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, sentence: str
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("ltd.loading.load", refused)
    assert main(["generate", "hi"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize("module", ["ltd.cli.app", "torch", "transformers"])
def test_an_interrupt_while_something_is_imported_ends_quietly(module: str) -> None:
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from ltd.cli import main
sys.exit(main(["info"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_that_an_import_made_another_error_of_is_one() -> None:
    def run() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("a module could not be imported") from error

    assert run_program(run) == 130


# --- no home, no cache ---


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container under a user that it does not know."""

    def unknown(*_: Any) -> Any:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(Path, "expanduser", lambda self: unknown() if str(self).startswith("~") else self)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_all_that_needs_no_cache_works(
    tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--target", str(tiny_target("llama")), "--draft", str(tiny_head("llama")), "--dtype", "float32"]
    assert main(["generate", "hi", *own, "--max-new-tokens", "3"]) == 0
    assert main(["info"]) == 0
    capsys.readouterr()
    assert cached("policies") is None
    for find in (cache_folder, lambda: expand_user("~/model"), lambda: ltd.load("~/model")):
        with pytest.raises(InputError, match="home"):
            find()
    assert main(["generate", "hi", "--target", "~/model"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locate, "convert_gguf", lambda *_: pytest.fail("the folder is tried before the work"))
    with pytest.raises(InputError, match=r"cannot write .*cache.*; set XDG_CACHE_HOME"):
        locate.locate(tmp_path / "model.gguf")
    decoder = ltd.load(tiny_target("llama"), tiny_head("llama"), dtype="float32")  # which has nothing to cache
    setting = setting_of(decoder)
    assert setting is not None and kept_bundle(setting) is None


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"")

    def half(file: Path, out: Path) -> None:
        out.mkdir()
        write_bytes(out / "config.json", b"{}")
        with files_at_most(1000):
            write_shard({"weight": torch.zeros(1000)}, out / "model.safetensors")

    monkeypatch.setattr(locate, "convert_gguf", half)
    with pytest.raises(InputError, match="has space"):
        locate.locate(tmp_path / "model.gguf")
    assert list((tmp_path / "cache" / "ltd" / "gguf").iterdir()) == []


# --- files ---


@pytest.mark.parametrize(
    "write",
    [
        lambda file: write_bytes(file, b"x" * 5000),
        lambda file: write_shard({"weight": torch.zeros(5000)}, file),
        lambda file: save_state({"weight": torch.zeros(5000)}, file),
    ],
    ids=["bytes", "shard", "checkpoint"],
)
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_what_cannot_be_written_whole_is_not_there(
    tmp_path: Path, write: Callable[[Path], None], before: bytes | None
) -> None:
    file = tmp_path / "file"
    if before is not None:
        file.write_bytes(before)
    with files_at_most(1000), pytest.raises(OSError, match=r"large") as refused:
        write(file)
    assert refused.value.filename == str(file) or "large" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ([] if before is None else ["file"])
    assert before is None or file.read_bytes() == before
    write(file)
    assert file.stat().st_size >= 5000 and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_journal_on_a_full_disk_names_itself_and_goes_on_later(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    with Journal(file, {"a": 1}) as journal:
        journal.append({"number": 1})
        with files_at_most(file.stat().st_size + 20), pytest.raises(OSError, match="large") as refused:
            journal.append({"text": "x" * 5000})
    assert refused.value.filename == str(file)
    with Journal(file, {"a": 1}) as journal:
        assert journal.records == [{"number": 1}]
        journal.append({"number": 2})
    with Journal(file, {"a": 1}) as journal:
        assert journal.records == [{"number": 1}, {"number": 2}]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    file = tmp_path / "file"
    file.write_text("old")

    def interrupted() -> None:
        with written_whole(file) as unfinished:
            unfinished.write_text("ne")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and file.read_text() == "old"
