"""The compiled module, `ltd._C`, which fits one Python and one series of torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import torch  # whose libraries the module needs

from ltd.errors import InputError

__all__ = ["_C"]

REMEDY = "in its sources: make install; elsewhere: pip install --force-reinstall --no-deps ltd-decoding"


def check_module() -> None:
    """Looks at what the module was built for, before it is imported.

    Raises:
        ImportError: there is none for this Python, or it is for another series of torch; with one sentence that says
            so and an InputError as its cause. (Loaded all the same, it would fail with the name of a symbol, or worse.)
    """
    spec = find_spec("ltd._C")
    if spec is None or spec.origin is None:
        refuse(f"ltd has no kernels for this Python; build them, {REMEDY}")
    # What cmake/extension.py writes beside each module.
    check_torch(Path(spec.origin).with_suffix(".torch"), str(torch.__version__))


def check_torch(built_for: Path, version: str) -> None:
    """Compares the series, such as 2.13, of this version of torch with what stands in the file, if there is one."""
    if not built_for.is_file():
        return
    built = built_for.read_text(encoding="utf-8").strip()
    if series(built) != series(version):
        refuse(
            f"the kernels of ltd were built for torch {series(built)}, but torch {version} is installed; "
            f"install torch=={series(built)}.*, or build ltd for this one, {REMEDY}"
        )


def series(version: str) -> str:
    """The first two numbers of a version."""
    return ".".join(version.split(".")[:2])


def refuse(sentence: str) -> NoReturn:
    """Raises what an import may raise."""
    raise ImportError(sentence) from InputError(sentence)


check_module()
from ltd import _C  # noqa: E402
