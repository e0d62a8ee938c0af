"""Devices and types by name."""

from __future__ import annotations

import torch

from ltd.common.argument_types import wrong_type
from ltd.errors import InputError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Turns a device name into a device, or raises InputError.

    None is the CPU: the CUDA kernels have not run on a GPU yet, so they are used only where somebody asks for them.
    """
    if not isinstance(device, str | torch.device | None):
        raise wrong_type("device", device, "cpu, cuda, cuda:N or a torch.device")
    try:
        chosen = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but this torch sees no CUDA GPU; use device cpu")
    return chosen


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
