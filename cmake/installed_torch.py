"""The torch that a build is for: the one that is installed, also where pip builds apart from it.

pip builds a package in an environment of its own: it starts the same Python, with a PYTHONPATH that hides what is
installed. A torch that is installed there for the build would be a download of gigabytes, and often another version
than the user's, which could not load what was built for it. So the Python that has torch is asked: this one, or else
the same without what pip put into its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ANY = "torch>=2.6"  # the oldest that the sources compile with
PIP_SETS = ("PYTHONPATH", "PYTHONNOUSERSITE")
DESCRIBE = """
import json, pathlib, sys
try:
    import torch
except ModuleNotFoundError:
    sys.exit(3)
runtime = None
if torch.version.cuda:
    with open("/proc/self/maps") as maps:  # the file that torch has loaded
        runtime = next(line.split(maxsplit=5)[-1].strip() for line in maps if "/libcudart" in line)
print(json.dumps([torch.__version__, str(pathlib.Path(torch.__file__).parent), torch._C._GLIBCXX_USE_CXX11_ABI,
                  torch.version.cuda, runtime]))
"""
NO_TORCH = 3


class InstalledTorch(NamedTuple):
    """What a build has to know of it.

    Attributes:
        version: such as "2.13.0+cpu". folder: of the package. cxx11_abi: how its library names strings.
        cuda: its version; None of a CPU build. cuda_runtime: the file of the runtime library that torch loads.
    """

    version: str
    folder: str
    cxx11_abi: bool
    cuda: str | None
    cuda_runtime: str | None

    @property
    def series(self) -> str:
        """What a module built for it can be loaded by: all versions that begin so, such as "2.13"."""
        return ".".join(self.version.split(".")[:2])


def environments() -> list[dict[str, str]]:
    """Where to look: here, and outside of pip's environment for the build."""
    here = dict(os.environ)
    outside = {name: value for name, value in here.items() if name not in PIP_SETS}
    return [here] if here == outside else [here, outside]


def find() -> tuple[InstalledTorch, dict[str, str]] | None:
    """The installed torch and the environment in which this Python can import it; None where there is none.

    Raises:
        RuntimeError: one that cannot be imported.
    """
    for environment in environments():
        asked = subprocess.run(
            [sys.executable, "-c", DESCRIBE], env=environment, capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return InstalledTorch(*json.loads(asked.stdout.splitlines()[-1])), environment
        if asked.returncode != NO_TORCH:
            raise RuntimeError(f"torch is installed for {sys.executable}, but cannot be imported:\n{asked.stderr}")
    return None


def describe() -> InstalledTorch:
    """The installed torch; ends the program with a sentence where there is none."""
    found = find()
    if found is None:
        sys.exit(f"ltd: {sys.executable} has no torch; install it before ltd is built: pip install torch")
    return found[0]


def run_with_torch(command: Sequence[str]) -> None:
    """Runs a Python program, given as this Python's arguments, where torch can be imported.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    found = find()
    environment = dict(os.environ) if found is None else found[1]
    subprocess.run([sys.executable, *command], env=environment, check=True)
