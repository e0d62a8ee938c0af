"""What this machine is, for `ltd info` and beside every measurement."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from ltd.common.threads import usable_cores


def processor_name() -> str:
    """The processor, for example "AMD EPYC 9R14 (AVX-512 BF16)".

    What it can multiply with belongs to its name: virtual machines call very different processors "AMD EPYC".
    """
    return f"{model_name()} ({vector_unit()})"


def vector_unit() -> str:
    """The widest vector instructions that matter to the kernels."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX-512 BF16"
    if torch.cpu._is_avx512_supported():
        return "AVX-512"
    return "AVX2" if torch.cpu._is_avx2_supported() else platform.machine()


def model_name() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def machine_facts() -> dict[str, str | int]:
    """What a speed depends on and a reader of results needs: processor, cores, threads, GPU (if any) and torch."""
    facts: dict[str, str | int] = {
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
