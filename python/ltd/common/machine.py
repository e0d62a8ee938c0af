"""What this machine is, for `ltd info` and beside every measurement."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ltd.common.module import _C
from ltd.common.threads import usable_cores

# From the widest to the narrowest.
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512": "AVX-512", "avx2": "AVX2"}


def processor_name() -> str:
    """The processor, for example "AMD EPYC 9R14 (AVX-512 BF16)".

    What it can multiply with belongs to its name: virtual machines call very different processors "AMD EPYC".
    """
    return f"{model_name()} ({vector_unit()})"


def vector_unit() -> str:
    """The vector instructions of the kernels in use: the widest that the processor has, or what LTD_CPU_ISA says."""
    return UNITS.get(str(_C.build_info()["cpu_kernels"]), platform.machine())


def vector_rank(processor: str | None) -> int:
    """The place of a processor's vector instructions, given `processor_name`, among those that we have kernels for.

    Returns:
        0 for the widest; their number where there are none of them, or nothing is known.
    """
    units = list(UNITS.values())
    unit = (processor or "").rpartition("(")[2].removesuffix(")")
    return units.index(unit) if unit in units else len(units)


def unlikeness(processor: str | None, here: str | None) -> tuple[int, int]:
    """How far the vector instructions of two processors are apart; of equally far ones the wider is nearer."""
    rank = vector_rank(processor)
    return abs(rank - vector_rank(here)), rank


def model_name() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def machine_facts(device: torch.device | None = None) -> dict[str, str | int]:
    """What a speed depends on and a reader of results needs: processor, cores, threads, GPU (if any) and torch.

    Args:
        device: that is used; of several GPUs it says which is named. None, and a CPU, leave that to the current one.
    """
    facts: dict[str, str | int] = {
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(device if device is not None and device.type == "cuda" else None)
    return facts
