"""Where the steps of gpu-check run, and how their commands end; only the standard library is used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_machine import ROOT
from system_python import search_path

TAIL = 15  # lines of a failed command's output that are shown


class StepError(Exception):
    """A step has failed; the message says what.

    Attributes:
        output: what its command said, if that was it.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class UnsupportedError(StepError):
    """This machine cannot do a step, which says nothing about what would have been looked at."""


@dataclass
class Place:
    """Where the steps run, and with what.

    `system` is an environment that has everything and is not written to: nothing is installed, the package is built
    beside its sources. Else it is .venv, which `make` sets up. With `prebuilt` nothing is compiled: the module and the
    microbenchmarks were brought along. The time limit is that of the step that runs.
    """

    python: Path
    system: bool
    prebuilt: bool
    architectures: str  # to compile for
    logs: Path
    limit: float = 0.0  # seconds

    def run(self, log: str, *command: str | Path, **environment: str) -> None:
        """Runs a command in the repository, with its output in a log.

        Raises:
            StepError: it has failed or taken too long; the message ends with the last lines of its output.
        """
        paths = [ROOT / "python", ROOT / "rl"] if self.system else []
        ours = {
            "PATH": search_path(self.python),
            "LTD_CUDA": "ON",
            "LTD_CUDA_ARCHITECTURES": self.architectures,
            "PYTHONPATH": os.pathsep.join(filter(None, [*map(str, paths), os.environ.get("PYTHONPATH", "")])),
        }
        self.logs.mkdir(parents=True, exist_ok=True)
        file = self.logs / f"{log}.log"
        with file.open("ab") as output:
            begin = output.tell()
            code = finish(command, os.environ | ours | environment, output.fileno(), self.limit)
        if code != 0:
            ended = f"did not end within {self.limit:.1f} s" if code is None else f"ended with exit code {code}"
            said = file.read_bytes()[begin:].decode(errors="replace")
            lines = [f"{' '.join(map(str, command))} {ended}; the end of {file}:", *said.splitlines()[-TAIL:]]
            raise StepError("\n    ".join(lines), said)

    def read_json(self, name: str, work: Callable[[Path], None]) -> dict[str, Any]:
        """What `work` writes into the file that it is given."""
        file = self.logs / f"{name}.json"
        file.unlink(missing_ok=True)
        work(file)
        return read_object(file)

    def kernel_bench(self) -> Path:
        """The program of microbenchmarks.

        Raises:
            StepError: it is not there.
        """
        program = self.kernel_bench_file()
        if not program.is_file():
            raise StepError("kernel_bench has not been built")
        return program

    def kernel_bench_file(self) -> Path:
        """Where that program is, or will be."""
        return self.build_folder() / "bench" / "kernels" / "kernel_bench"

    def build_folder(self) -> Path:
        """Where setup.py builds for this Python."""
        asked = subprocess.run(
            [self.python, "-c", "import sys; print(sys.implementation.cache_tag)"],
            capture_output=True, text=True, check=True)  # fmt: skip
        return ROOT / "build" / f"cmake-{asked.stdout.strip()}"


def finish(command: tuple[str | Path, ...], environment: dict[str, str], output: int, limit: float) -> int | None:
    """The exit code of a command, or None if it had to be stopped, with all that it had started."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        start_new_session=True)  # fmt: skip
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when the user interrupts
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. `ltd.common.json_files` is not there before the first step has made it.

    Raises:
        StepError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise StepError(f"{file} holds no JSON object")
    return content


def find_sanitizer(python: Path) -> str:
    """Where compute-sanitizer is.

    Raises:
        StepError: it is not here.
    """
    found = shutil.which("compute-sanitizer", path=search_path(python))
    if found is None:
        raise StepError("compute-sanitizer was not found; it comes with the CUDA toolkit")
    return found
