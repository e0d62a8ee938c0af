"""Builds, tests and times everything on this machine's NVIDIA GPU.

    make gpu-check                               sets up .venv, as the other targets do
    make gpu-check SYSTEM=1 [OUT=FOLDER] [BUDGET=SECONDS] [PYTHON=python3.12]
                                                 installs and downloads nothing: this Python has torch and what a
                                                 build needs, and the package is built beside its sources
    python3.12 bench/gpu_check.py --prebuilt     nor is anything compiled: python/ltd/_C.*.so and kernel_bench, in the
                                                 build folder, were built elsewhere for the same Python and torch

One step after the other, the most telling first: the build, the operators' tests on the GPU, recorded cycles beside
called ones (`recorded_cycles.py`), decoding with planted models of an 8B shape (`planted.py`), the microbenchmarks,
compute-sanitizer's memcheck and racecheck of every kernel, the operators beside what one would use otherwise, and, in
.venv, the CUDA compile report. Each has a time limit of its own; what does not fit into the budget is left out, and
said. A step that has succeeded is not done again until a source changes. The results are written after every step: to
bench/results/<gpu>/results.json, or else to a folder of the caller's choice, which gets two files: results.json, and
results.tgz with the steps' logs as well. Where the first four have succeeded and no check of memory or races has
failed, `ltd` chooses this GPU by itself from then on.

Not yet run: nothing of it works without a GPU, but --rehearse builds without one, for LTD_CUDA_ARCHITECTURES, and lets
every other step say what it lacks.

Only the standard library is used here, since the first step makes the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpu_machine import ROOT, Gpu, find_gpu, source_digest
from gpu_place import Place, StepError, UnsupportedError, read_object
from gpu_steps import KEPT, MARK_SECONDS, TELLING, WATCHING, Results, Step, file_name, missing, steps_of, write_mark
from system_python import missing_headers

SYSTEM_BUDGET = 480.0  # seconds; of a machine that is lent
NO_GPU = Gpu("no GPU", "90")


@dataclass
class Done:
    """How a step has ended: ok, failed or left out."""

    state: str
    message: str = ""
    seconds: float = 0.0
    results: Results = None

    @property
    def ok(self) -> bool:
        return self.state == "ok"


@dataclass
class Check:
    """A run of all steps."""

    place: Place
    gpu: Gpu
    out: Path  # the file for the results
    budget: float  # seconds
    digest: str
    archive: Path | None = None  # the file for the results and all logs
    done: dict[str, Done] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.monotonic() - self.started)

    def run(self) -> None:
        """All steps, with the results written after each."""
        for name, step in steps_of(self.place):
            self.done[name] = self.kept(name, step) or self.refused(step) or self.tried(name, step)
            print(f"== {name}: {self.done[name].state} ({self.done[name].seconds:.0f} s)", flush=True)
            if self.done[name].message:
                print(f"gpu-check: {name}: {self.done[name].message}", file=sys.stderr, flush=True)
            self.write()

    def kept(self, name: str, step: Step) -> Done | None:
        """How the step ended before, if it succeeded in the same state of sources and machine, and what it built is
        still there."""
        file = KEPT / f"{file_name(name)}.json"
        if file.is_file() and step.is_built(self.place):
            with contextlib.suppress(StepError):  # damaged: the step is done again
                found = read_object(file)
                if found.get("state") == self.state and "results" in found:
                    return Done("ok", "done before", results=found["results"])
        return None

    @property
    def state(self) -> str:
        """What a kept result is of."""
        return f"{self.gpu.name} {self.place.python} {self.place.architectures} {self.digest}"

    def refused(self, step: Step) -> Done | None:
        """Why the step is left out, if it is."""
        lacking = [name for name in step.after if not self.done[name].ok]
        if lacking:
            return Done("left out", f"it needs {lacking[0]}, which has not succeeded")
        if lacks := missing(step, self.place):
            return Done("left out", f"not installed here: {', '.join(lacks)}")
        if step.usual > self.left:
            left = max(self.left, 0.0)
            return Done("left out", f"{left:.0f} s of the budget are left, and it takes about {step.usual:.0f} s")
        return None

    def tried(self, name: str, step: Step) -> Done:
        """Runs the step, and keeps its results if it succeeds."""
        print(f"== {name} ...", flush=True)
        begin = time.monotonic()
        self.place.limit = min(step.limit, self.left)
        try:
            results = step.run(self.place)
        except UnsupportedError as error:
            return Done("left out", str(error), time.monotonic() - begin)
        except (StepError, OSError) as error:
            return Done("failed", str(error), time.monotonic() - begin)
        write(KEPT / f"{file_name(name)}.json", {"state": self.state, "results": results})
        return Done("ok", "", time.monotonic() - begin, results)

    def write(self) -> None:
        """What there is so far."""
        steps = {name: asdict(done) for name, done in self.done.items()}
        about = {"gpu": self.gpu.name, "architecture": self.place.architectures, "budget_s": self.limited_budget}
        write(self.out, {**about, "seconds": round(time.monotonic() - self.started, 1), "steps": steps})
        if self.archive is not None:
            write_archive(self.archive, [self.out, *sorted(self.place.logs.glob("*"))])

    def mark(self) -> bool:
        """Lets `ltd` choose this GPU by itself if it decodes rightly, as far as was looked."""
        states = {name: done.state for name, done in self.done.items()}
        if any(states.get(name) != "ok" for name in TELLING) or any(states.get(name) == "failed" for name in WATCHING):
            return False
        self.place.limit = MARK_SECONDS
        try:
            write_mark(self.place)
        except StepError as error:
            print(f"gpu-check: no mark in the cache: {error}", file=sys.stderr)
            return False
        return True

    @property
    def limited_budget(self) -> float | None:
        """For JSON, which has no infinity."""
        return None if self.budget == float("inf") else self.budget


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The path to write a file's content to, so that nobody ever sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    yield fresh
    fresh.replace(file)


def write(file: Path, content: dict[str, object]) -> None:
    """Writes JSON, whole."""
    with replacing(file) as fresh:
        fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_archive(file: Path, members: Iterable[Path]) -> None:
    """Writes a compressed archive of files, whole."""
    with replacing(file) as fresh, tarfile.open(fresh, "w:gz") as archive:
        for member in members:
            archive.add(member, member.name, recursive=False)


def print_results(done: dict[str, Done]) -> None:
    """The timings, and how every step has ended."""
    kernels = results_of(done, "microbenchmarks")
    if kernels:
        print(f"\n{'kernel':<60} {'median us':>10} {'GB/s':>8} {'of floor':>9}")
    for line in kernels:
        share = f"{100 * line['floor_share']:.0f} %"
        print(f"{line['name']:<60} {line['median_us']:>10.1f} {line['gb_per_s']:>8.0f} {share:>9}")
    planted = done["decoding"].results if "decoding" in done else None
    if planted is not None:
        print(f"\n{planted['shape']}, milliseconds per cycle")
        for name, way in planted["ways"].items():
            parts = ", ".join(f"{part} {time:.3f}" for part, time in way["parts"].items())
            print(f"{name:<8} {way['rate']:>8.1f} tokens/s {way['ms_per_cycle']:>8.3f} ({parts})")
    comparison = results_of(done, "comparison")
    if comparison:
        print(f"\n{'operator':<60} {'ltd us':>10} {'best other us':>14}")
    for line in comparison:
        others = {name: timing["median"] for name, timing in line["others"].items()}
        best = min(others, key=lambda name: others[name], default=None)
        other = "none" if best is None else f"{others[best]:.1f} ({best})"
        print(f"{line['operator']:<60} {line['ltd']['median']:>10.1f} {other:>14}")
    print()
    for name, step in done.items():
        about = "" if step.ok else f": {step.message.splitlines()[0]}"
        print(f"{name:<24} {step.state}{about}")


def results_of(done: dict[str, Done], name: str) -> list[dict[str, object]]:
    """The lines that a step has measured."""
    results = done[name].results if name in done else None
    return [] if results is None else results["results"]


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Builds, tests and times everything on an NVIDIA GPU.")
    parser.add_argument("--system", action="store_true", help="use this Python as it is; install nothing")
    parser.add_argument("--prebuilt", action="store_true", help="as --system, and compile nothing: use what is built")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for results.json, and results.tgz with all logs, instead of ours"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help=f"for everything (default: {SYSTEM_BUDGET:.0f} with --system)"
    )
    parser.add_argument("--fresh", action="store_true", help="do all steps again")
    parser.add_argument("--rehearse", action="store_true", help="go on without a GPU, as far as that is possible")
    options = parser.parse_args(arguments)
    if options.budget is not None and not options.budget > 0:
        parser.error(f"--budget must be above 0, but is {options.budget}")
    options.system |= options.prebuilt
    if options.budget is None:
        options.budget = SYSTEM_BUDGET if options.system else float("inf")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    gpu = find_gpu() or (NO_GPU if options.rehearse else None)
    if gpu is None:
        print("gpu-check needs an NVIDIA GPU and its driver, and finds none here", file=sys.stderr)
        return 2
    if options.system and not options.prebuilt and (headers := missing_headers()):
        print(f"gpu-check can compile no module for {sys.executable}: there is no {headers[0]}", file=sys.stderr)
        return 2
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    usual = KEPT if gpu is NO_GPU else ROOT / "bench" / "results" / file_name(gpu.name)
    folder = (options.out or usual).absolute()
    place = Place(
        python=Path(sys.executable) if options.system else ROOT / ".venv" / "bin" / "python",
        system=options.system,
        prebuilt=options.prebuilt,
        architectures=os.environ.get("LTD_CUDA_ARCHITECTURES") or (gpu.architecture if options.system else ""),
        logs=KEPT,
    )
    archive = folder / "results.tgz" if options.out else None
    check = Check(place, gpu, folder / "results.json", options.budget, source_digest(), archive)
    say_what_is_missing(place)
    check.run()
    marked = check.mark()
    print_results(check.done)
    if marked:
        print("ltd decodes on this GPU from now on where no device is named")
    print(f"written: {check.out}")
    return 0 if all(step.ok for step in check.done.values()) else 1


def say_what_is_missing(place: Place) -> None:
    """Before anything takes time: the steps for which something is not installed."""
    if not place.system:
        return
    for name, step in steps_of(place):
        if lacks := missing(step, place):
            print(f"gpu-check: {name} will be left out; not installed here: {', '.join(lacks)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
