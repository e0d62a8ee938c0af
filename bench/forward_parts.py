"""The operators between a forward's products beside the modules of `transformers`, for the benchmarks of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from ltd import ops

Part = tuple[str, Callable[[], object], Callable[[], object]]
"""An operator's name, its call, and the same by `transformers`."""


def forward_parts(
    rows: int, hidden: int, intermediate: int, query_heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> Iterator[Part]:
    """add_rms_norm, rotate_and_store and gated_silu for so many rows, on the default device."""
    normal = lambda *shape: torch.randn(*shape).to(dtype)  # noqa: E731
    yield norm_part(normal(rows, hidden), normal(rows, hidden))
    yield heads_part(normal(1, rows, (query_heads + 2 * kv_heads) * head_dim), query_heads, kv_heads, head_dim)
    joint, active = normal(rows, 2 * intermediate), normal(rows, intermediate)
    gate, up = joint.chunk(2, dim=1)
    yield f"gated_silu, {rows} rows", lambda: ops.gated_silu(joint, active), lambda: silu(gate) * up


def norm_part(states: Tensor, addend: Tensor) -> Part:
    """The states grow from call to call, in both ways; time does not depend on it."""
    module = LlamaRMSNorm(states.shape[1], 1e-5).to(states)
    weight, normed = module.weight.detach(), torch.empty_like(states)

    def composed() -> Tensor:
        with torch.no_grad():
            result: Tensor = module(states + addend)
            return result

    fused = lambda: ops.add_rms_norm(states, addend, weight, 1e-5, normed)  # noqa: E731
    return f"add_rms_norm, {states.shape[0]} rows", fused, composed


def heads_part(qkv: Tensor, query_heads: int, kv_heads: int, head_dim: int) -> Part:
    """Behind a prefix of 512 rows."""
    rows, prefix = qkv.shape[1], 512
    angles = torch.rand(rows, head_dim)
    cosines, sines = angles.cos().to(qkv.dtype), angles.sin().to(qkv.dtype)
    lengths, places = torch.tensor([prefix], dtype=torch.int32), torch.arange(rows)[None]
    keys, values = (torch.zeros(1, kv_heads, prefix + rows, head_dim, dtype=qkv.dtype) for _ in range(2))
    queries = torch.empty(1, rows, query_heads, head_dim, dtype=qkv.dtype).transpose(1, 2)
    sizes = [query_heads, kv_heads, kv_heads]

    def composed() -> None:
        heads = qkv.unflatten(2, (-1, head_dim)).transpose(1, 2).split(sizes, dim=1)
        _, key = apply_rotary_pos_emb(heads[0], heads[1], cosines[None], sines[None])
        keys[:, :, prefix:], values[:, :, prefix:] = key, heads[2]

    def fused() -> None:
        ops.rotate_and_store(qkv, None, None, 0.0, cosines, sines, places, lengths, 0, keys, values, queries)

    return f"rotate_and_store, {rows} rows", fused, composed
