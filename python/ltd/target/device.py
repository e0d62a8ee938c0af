"""Devices and types by name."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache

import torch

from ltd.common.argument_types import wrong_type
from ltd.common.gpu_mark import is_marked
from ltd.errors import InputError
from ltd.ops.library import build_info

AUTO = "auto"
CPU = torch.device("cpu")
GPU = re.compile("cuda(?::([0-9]|[1-9][0-9]{1,8}))?")


@dataclass(frozen=True, slots=True)
class ChosenDevice:
    """A device, and why it is this one, for people; the reason is empty where there was no choice."""

    device: torch.device
    reason: str = ""


def choose_device(device: str | torch.device | None) -> ChosenDevice:
    """The device that was asked for, or the better one here.

    Args:
        device: cpu, cuda, cuda:N; "auto" or None is the GPU once `make gpu-check` has passed on it with this build, and
            until then the CPU.

    Raises:
        InputError: there is no such device.
    """
    if not isinstance(device, str | torch.device | None):
        raise wrong_type("device", device, "auto, cpu, cuda, cuda:N or a torch.device")
    if device is None or device == AUTO:
        return best_device()
    name = str(device)  # torch takes more: kinds that nothing here runs on, and numbers that it cuts to eight bits
    if name == CPU.type:
        return ChosenDevice(CPU)
    if (gpu := GPU.fullmatch(name)) is None:
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    check_gpu(name, int(gpu[1] or 0))
    return ChosenDevice(torch.device(name))


def check_gpu(device: str, number: int) -> None:
    """Raises InputError if there is no GPU of this number, counted from 0; the message names the device."""
    if not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but this torch sees no CUDA GPU; use device cpu")
    if number >= (count := torch.cuda.device_count()):
        seen, others = ("1 CUDA GPU", "cuda:0") if count == 1 else (f"{count} CUDA GPUs", f"cuda:0 … cuda:{count - 1}")
        raise InputError(f"device {device!r} was asked for, but this torch sees {seen}; use device {others}")


def best_device() -> ChosenDevice:
    """The GPU where it is known to decode rightly with this build, and else the CPU."""
    if not torch.cuda.is_available():
        return ChosenDevice(CPU)
    gpu, build = torch.cuda.get_device_name(), build_info()
    if not build["cuda"]:
        return ChosenDevice(CPU, f"there is an {gpu}, but this build has no CUDA kernels: {build['cuda_reason']}")
    if is_marked(gpu):
        return ChosenDevice(torch.device("cuda"), f"make gpu-check has passed on this {gpu}")
    return ChosenDevice(
        CPU, f"make gpu-check has not passed with this build on the {gpu} here; device cuda uses it all the same"
    )


def resolve_device(device: str | torch.device | None) -> torch.device:
    """As `choose_device`, without the reason."""
    return choose_device(device).device


def uses_gpu(device: str) -> bool:
    """Whether a device by name is a GPU here; raises InputError as `choose_device` does."""
    return resolve_device(device).type != "cpu"


@cache  # a sentence is said once
def say_device(chosen: ChosenDevice) -> None:
    """Says where decoding happens and why, where there was a choice."""
    if chosen.reason:
        print(f"ltd decodes on device {chosen.device}: {chosen.reason}", file=sys.stderr)


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turns a dtype name into a dtype; "auto" is the one that decodes fastest on the device.

    That is bfloat16 on any CUDA GPU we support, and on CPUs with AVX2 or more: decoding there reads weights for most of
    its time, and the engine's kernels widen them on the way. It is float32 on other CPUs.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" or torch.cpu._is_avx2_supported() else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or chosen not in (torch.float32, torch.bfloat16, torch.float16):
        raise InputError(f"dtype {dtype!r} is not supported; use auto, float32, bfloat16 or float16")
    return chosen


def resolve_training_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """As `resolve_dtype`, but "auto" is the fastest for PyTorch's own large products.

    That is bfloat16 only where the hardware multiplies it: on any CUDA GPU we support, and on CPUs with AVX-512 BF16 or
    AMX.
    """
    if dtype == "auto":
        fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return resolve_dtype(dtype, device)
