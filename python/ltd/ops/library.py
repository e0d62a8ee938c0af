"""How an operator of the library is called, and what this build of it contains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ltd.common.module import _C
from ltd.errors import InputError


def operator(name: str) -> Callable[..., Any]:
    """The operator `torch.ops.ltd.<name>`, with its ValueErrors raised as InputErrors that begin with its name."""
    call = getattr(torch.ops.ltd, name).default

    def run(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None

    return run


def build_info() -> dict[str, object]:
    """What this build contains.

    Returns:
        version, compiler, torch (version built for), cpu_kernels (instruction set in use), cpu_isas (those that could
        be, narrowest first), cpu_fastest (the one that is taken unless LTD_CPU_ISA asks for another), cuda, and
        cuda_reason: why the CUDA kernels are left out.
    """
    info: dict[str, object] = _C.build_info()
    return info
