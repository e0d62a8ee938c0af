"""Compiles the CUDA kernels for every architecture, shows what each needs, and fails if one spills registers.

    python bench/cuda_check.py [--json FILE] [--if-possible] [--brief] [SOURCE ...]

Needs nvcc, but no GPU and no torch. The options and the architectures are those of the build: cmake/cuda_options.txt
and cmake/cuda_architectures.txt. For the newest architecture the sources are compiled as the build does it: with PTX,
which later GPUs translate themselves, and with the host's part; for the others, the device's code alone. What has not
changed since the last time is not compiled again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rich.table import Table

from console import wide_console

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda-check"

# Kernels that may spill registers, by name (as in a shell, * is anything) and architecture, and why.
ACCEPTED_SPILLS: dict[tuple[str, str], str] = {}


class CheckError(Exception):
    """The check cannot be done; the message says why."""


@dataclass
class Usage:
    """What the compiled kernel needs on one architecture; bytes are per block for shared memory, else per thread.

    Device functions that were not inlined have lines of their own, without registers.
    """

    kernel: str
    architecture: str
    registers: int | None = None
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0

    @property
    def spills(self) -> bool:
        """Whether registers are kept in memory."""
        return self.spill_stores + self.spill_loads > 0

    @property
    def excuse(self) -> str | None:
        """Why this kernel may spill, if it may."""
        reasons = (
            reason
            for (name, architecture), reason in ACCEPTED_SPILLS.items()
            if architecture == self.architecture and fnmatchcase(self.kernel, name)
        )
        return next(reasons, None)


# --- what the assembler says ---

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
FUNCTION = re.compile(r"Function properties for (\S+)")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def parse_usages(report: str) -> list[Usage]:
    """The functions that `ptxas -v` reports, with their mangled names."""
    usages: dict[tuple[str, str], Usage] = {}
    entry = function = architecture = ""

    def usage(name: str) -> Usage:
        return usages.setdefault((name, architecture), Usage(name, architecture))

    for line in report.splitlines():
        if match := ENTRY.search(line):
            entry, architecture = match.groups()
            function = entry
        elif match := FUNCTION.search(line):
            function = match[1]
        elif match := STACK.search(line):
            named = usage(function)
            named.stack, named.spill_stores, named.spill_loads = map(int, match.groups())
        elif match := REGISTERS.search(line):
            named = usage(entry)
            named.registers = int(match[1])
            shared = SHARED.search(line)
            named.shared = int(shared[1]) if shared else 0
    return list(usages.values())


# --- names for people ---

NAMELESS = re.compile(r"(?:_GLOBAL__N__\w+|\(anonymous namespace\)|<unnamed>|_INTERNAL\w+)::")
CAST = re.compile(r"\((?:int|unsigned int|long|unsigned long|bool)\)")


def short_name(demangled: str) -> str:
    """A kernel's name and template arguments, without its namespaces, return type and parameters."""
    name = (
        CAST.sub("", NAMELESS.sub("", demangled)).replace("ltd::cuda::", "").replace("ltd::", "").replace("> >", ">>")
    )
    depth, begin = 0, 0
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if depth == 0 and character == " ":
            begin = i + 1
        elif depth == 0 and character == "(":
            return name[begin:i]
    return name[begin:]


def demangle(usages: Iterable[Usage], nvcc: Path) -> None:
    """Gives them short names, as far as this machine has what undoes C++'s mangling."""
    usages = list(usages)
    beside = nvcc.with_name("cu++filt")
    tool = str(beside) if beside.is_file() else shutil.which("c++filt")
    if tool is None or not usages:
        return
    names = "\n".join(usage.kernel for usage in usages)
    lines = subprocess.run([tool], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
    for usage, line in zip(usages, lines, strict=True):
        usage.kernel = short_name(line)


# --- compiling ---


def find_nvcc() -> Path | None:
    """On the path, in CUDA_HOME, or where NVIDIA's packages put it."""
    homes = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    folders = [str(home / "bin") for home in (*homes, Path("/usr/local/cuda"))]
    found = shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))
    return Path(found) if found else None


def lines_of(name: str) -> list[str]:
    """The lines of a file that CMake reads too."""
    return (ROOT / "cmake" / name).read_text().split()


@dataclass(frozen=True)
class Compiler:
    """nvcc with the build's options.

    Attributes:
        nvcc: where it is.
        version: what it says about itself.
        headers: a digest of everything that sources can include.
    """

    nvcc: Path
    version: str
    headers: str

    @classmethod
    def found(cls) -> Compiler | None:
        """None without nvcc."""
        nvcc = find_nvcc()
        if nvcc is None:
            return None
        digest = hashlib.sha256()
        for header in sorted([*KERNELS.rglob("*.h"), *KERNELS.rglob("*.cuh")]):
            digest.update(header.read_bytes())
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        return cls(nvcc, version, digest.hexdigest())

    def architectures(self) -> list[str]:
        """Those of the build that this nvcc knows, as sm_*."""
        known = subprocess.run(
            [self.nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
        ).stdout.split()
        return [f"sm_{number}" for number in lines_of("cuda_architectures.txt") if f"sm_{number}" in known]

    def options(self, target: str, newest: str) -> list[str]:
        """The device's code alone; for the newest architecture, what the build makes, but for this one alone."""
        virtual = newest.replace("sm", "compute")
        everything = ["-c", "-gencode", f"arch={virtual},code=[{virtual},{newest}]"]
        what = everything if target == newest else ["-cubin", f"-arch={target}"]
        return [*lines_of("cuda_options.txt"), f"-I{KERNELS}", "-Xptxas=-v", *what]

    def report(self, source: Path, target: str, newest: str) -> str:
        """What the assembler says about a source, from the last time if nothing has changed.

        Raises:
            CheckError: it does not compile.
        """
        options = self.options(target, newest)
        content = "\0".join([self.version, self.headers, *options]).encode() + source.read_bytes()
        stem = f"{source.stem}-{target}"
        cached = CACHE / f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.txt"
        if cached.is_file():
            return cached.read_text()
        result = subprocess.run(
            [self.nvcc, *options, source, "-o", os.devnull], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise CheckError(f"{source} does not compile for {target}:\n{result.stdout}{result.stderr}")
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{stem}-*.txt"):
            old.unlink(missing_ok=True)
        fresh = cached.with_suffix(f".{os.getpid()}")
        fresh.write_text(result.stderr)
        fresh.replace(cached)
        return result.stderr

    def usages(self, source: Path, target: str, newest: str) -> list[Usage]:
        """What each kernel of a source needs on one architecture.

        Raises:
            CheckError: it does not compile.
        """
        usages = parse_usages(self.report(source, target, newest))
        demangle(usages, self.nvcc)
        return usages


def kernel_sources() -> list[Path]:
    """All CUDA sources of the project."""
    return sorted(KERNELS.glob("*/*.cu"))


def compile_all(compiler: Compiler, sources: Sequence[Path]) -> list[Usage]:
    """Every source for every architecture, as many at a time as there are processors; sorted by kernel.

    Raises:
        CheckError: one does not compile, or nvcc knows none of the architectures.
    """
    architectures = compiler.architectures()
    if not architectures:
        raise CheckError(f"{compiler.nvcc} knows none of the architectures in cmake/cuda_architectures.txt")
    jobs = [(source, target) for source in sources for target in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda job: compiler.usages(*job, architectures[-1]), jobs))
    usages = [usage for some in found for usage in some]
    return sorted(usages, key=lambda usage: (usage.kernel, int(usage.architecture.removeprefix("sm_").rstrip("af"))))


# --- results ---


def print_usages(usages: Sequence[Usage], title: str) -> None:
    """One line per kernel and architecture."""
    table = Table(title=title, caption="registers and bytes; shared: static, per block; stack and spills: per thread")
    table.add_column("kernel", overflow="fold")
    for name in ("architecture", "registers", "shared", "stack", "spill stores", "spill loads"):
        table.add_column(name, justify="right")
    before = None
    for usage in usages:
        registers = "" if usage.registers is None else str(usage.registers)
        numbers = map(str, (usage.shared, usage.stack, usage.spill_stores, usage.spill_loads))
        style = "red" if usage.spills else None
        name = usage.kernel if usage.kernel != before else ""
        table.add_row(name, usage.architecture, registers, *numbers, style=style)
        before = usage.kernel
    wide_console().print(table)


def complaints(usages: Sequence[Usage]) -> list[str]:
    """A sentence for every kernel that spills without a reason."""
    spilled: dict[str, list[Usage]] = {}
    for usage in usages:
        if usage.spills and usage.excuse is None:
            spilled.setdefault(usage.kernel, []).append(usage)
    return [
        f"{kernel} spills registers: "
        + ", ".join(f"{each.spill_stores + each.spill_loads} bytes on {each.architecture}" for each in places)
        for kernel, places in spilled.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compiles the CUDA kernels and shows what they need.")
    parser.add_argument("sources", nargs="*", type=Path, metavar="SOURCE", help="default: all in csrc")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--if-possible", action="store_true", help="without nvcc, succeed")
    parser.add_argument("--brief", action="store_true", help="no table, only what is wrong")
    options = parser.parse_args(arguments)
    compiler = Compiler.found()
    if compiler is None:
        print("cuda-check was not run: there is no nvcc on the path, in CUDA_HOME or in /usr/local/cuda")
        return 0 if options.if_possible else 2
    sources = options.sources or kernel_sources()
    try:
        usages = compile_all(compiler, sources)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 1
    missing = set(lines_of("cuda_architectures.txt")) - {name.removeprefix("sm_") for name in compiler.architectures()}
    if missing:
        print(f"{compiler.nvcc} is too old for {', '.join(f'sm_{each}' for each in sorted(missing))}: left out")
    release = re.search(r"release \S+, (\S+)", compiler.version)
    title = f"{len(sources)} CUDA sources, nvcc {release[1] if release else 'of unknown version'}"
    wrong = complaints(usages)
    if options.brief:
        kernels = len({usage.kernel for usage in usages})
        verdict = "some spill registers" if wrong else "none spills registers without a reason"
        print(f"cuda-check: {title}: {kernels} kernels, {verdict}")
    else:
        print_usages(usages, title)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"compiler": title, "kernels": [asdict(usage) for usage in usages], "complaints": wrong}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    for kernel in {usage.kernel: usage.excuse for usage in usages if usage.spills and usage.excuse}.items():
        print("{} spills registers: {}".format(*kernel))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
