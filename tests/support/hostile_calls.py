"""Calls of all operators with arguments that may be wrong in any way, for tests of what is refused and of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from engine_models import family_engine, family_model, new_cache
from op_cases import strided
from random_calls import Call, random_calls
from torch import Tensor

from ltd import ops
from ltd.engine.forward import TreeBlock

INTEGERS = [-(2**63), -(2**31), -1, 0, 1, 2, 5, 13, 64, 2**30, 2**30 + 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]
FLOATS = [0.0, -1.0, 0.5, 1.0, math.nan, math.inf, -math.inf, 1e-310, 1e-50, 1e-31, 1e-30, 1e30, 1e39, 1e308]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool]


@dataclass
class Hostile:
    """A call, and the argument in it that was changed."""

    call: Call
    argument: str
    change: str

    def __str__(self) -> str:
        return f"{self.call.name}, {self.argument}: {self.change}"


def good_calls(seed: int) -> Iterator[Call]:
    """Every operator with random arguments that are right."""
    yield from random_calls(seed, vocabularies=(700,))
    yield from engine_calls(seed)


def engine_calls(seed: int) -> Iterator[Call]:
    """The engine's operators."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(37, 6, generator=generator)
    packed = torch.zeros(ops.packed_shape(37, 6, torch.float32))
    yield Call("pack_linear", [weight, packed.clone()])
    ops.pack_linear(weight, packed)
    yield Call("unpack_rows", [packed, 37, 6, torch.randint(0, 37, (2, 3), generator=generator)])
    yield Call("linear", [torch.randn(2, 3, 6, generator=generator), packed, 37])
    family = ("qwen3", "mistral", "qwen2")[seed % 3]
    engine = family_engine(family, torch.float32)
    w = engine.weights
    cache = new_cache(family_model(family, torch.float32), 2, 64)
    cosines, sines, _ = engine.rotary.for_block(TreeBlock.chain(torch.zeros(1, dtype=torch.int32), 1), 64)
    positions = torch.arange(4).expand(2, 4).contiguous()
    masks = [None, torch.tril(torch.ones(4, 4)).long().mul(2 ** torch.arange(4)).sum(1).expand(2, 4)[..., None].clone()]
    weights = [w.input_norm, w.qkv, w.qkv_bias, w.query_norm, w.key_norm, w.output, w.output_bias, w.post_norm]
    weights += [w.gate_up, w.gate_up_bias, w.down, w.down_bias, w.final_norm, w.lm_head]
    numbers = [w.query_heads, w.intermediate, w.vocabulary, w.epsilon, w.scale]
    lengths = torch.tensor([seed % 60, 3], dtype=torch.int32)
    tree = [cosines, sines, positions, cache.keys, cache.values, lengths, masks[seed % 2], positions.clone()]
    states = torch.randn(2, 4, 32, generator=generator)
    yield Call("forward_stack", [states, *weights, *numbers, *tree, w.windows, (1, 8), 2, None, None, False, 0])


# --- changes ---


def changed_integer(value: int, random: np.random.Generator) -> tuple[str, object]:
    """An extreme number, or one beside the right one."""
    new = int(random.choice([value - 1, value + 1])) if random.random() < 0.3 else random.choice(np.array(INTEGERS))
    new = min(max(int(new), -(2**63)), 2**63 - 1)
    return str(new), new


def changed_float(value: float, random: np.random.Generator) -> tuple[str, object]:
    """An extreme number."""
    new = float(random.choice(FLOATS))
    return str(new), new


def changed_integers(value: list[int], random: np.random.Generator) -> tuple[str, object]:
    """One of them changed, left out, or put in twice."""
    new = list(value)
    place = int(random.integers(len(new))) if new else 0
    kind = random.integers(3) if new else 2
    if kind == 0:
        new[place] = changed_integer(new[place], random)[1]
    elif kind == 1:
        del new[place]
    else:
        new.insert(place, 1)
    return str(new), new


def other_type(tensor: Tensor, random: np.random.Generator) -> Tensor:
    return tensor.to(DTYPES[random.integers(len(DTYPES))])


def other_shape(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """One size less or more, a dimension less or more, or nothing in one of them."""
    if tensor.dim() == 0:
        return tensor[None]
    dimension = int(random.integers(tensor.dim()))
    kinds: list[Callable[[], Tensor]] = [
        lambda: tensor.narrow(dimension, 0, max(tensor.shape[dimension] - 1, 0)).clone(),
        lambda: torch.cat([tensor, tensor.narrow(dimension, 0, min(1, tensor.shape[dimension]))], dim=dimension),
        lambda: tensor.unsqueeze(dimension),
        lambda: tensor.narrow(dimension, 0, 0).clone(),
        lambda: tensor.sum(dimension).to(tensor.dtype),
        lambda: tensor.transpose(0, dimension),
    ]
    return kinds[random.integers(len(kinds))]()


def beside(tensor: Tensor) -> Tensor:
    """One of the same shape that begins a byte behind where it should."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 1)
    return torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=1).view(tensor.shape)


def other_layout(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """The same shape: with gaps, elements in one place, elements over each other, or in memory that is not aligned."""
    if tensor.dim() == 0 or tensor.numel() == 0:
        return tensor
    flat = torch.zeros(tensor.numel() * 2 + tensor.shape[-1], dtype=tensor.dtype)
    kinds: list[Callable[[], Tensor]] = [
        lambda: strided(tensor),
        lambda: tensor.flatten()[0].expand(tensor.shape),
        lambda: flat.as_strided(tensor.shape, [1] * tensor.dim()),
        lambda: torch.stack([tensor, tensor], dim=-1)[..., 0],
        lambda: beside(tensor),
    ]
    return kinds[random.integers(len(kinds))]()


def without_memory(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """On the meta device, of a size that nothing has, or with its memory given back."""
    kind = random.integers(3)
    if kind == 0:
        return tensor.to("meta")
    if kind == 1 and tensor.dim() > 0:
        shape = list(tensor.shape)
        shape[random.integers(len(shape))] = int(random.choice([2**30 + 1, 2**31, 2**40]))
        return tensor.new_zeros(()).expand(shape)
    new = tensor.clone()
    new.untyped_storage().resize_(int(random.integers(2)) * new.untyped_storage().nbytes() // 2)
    return new


def other_content(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """One element, or all, extreme."""
    new = tensor.clone()
    if new.dtype == torch.bool or new.numel() == 0:
        return new
    if new.is_floating_point():
        value: float = float(random.choice([math.nan, math.inf, -math.inf, 0.0, torch.finfo(new.dtype).max]))
    else:
        limits = torch.iinfo(new.dtype)
        value = int(np.array([limits.min, -1, 0, 1, 7, 100, limits.max])[random.integers(7)])
    place = slice(None) if random.random() < 0.5 else int(random.integers(new.numel()))
    flat = new.flatten()
    flat[place] = value
    return flat.view(new.shape)


TENSOR_CHANGES = [other_type, other_shape, other_layout, without_memory, other_content]


def changed_tensor(value: Tensor, others: list[Tensor], random: np.random.Generator) -> tuple[str, object]:
    """A tensor of another kind, or one that shares its memory with another argument."""
    alike = [other for other in others if other is not value and other.dtype == value.dtype and other.numel()]
    if alike and random.random() < 0.2:
        other = alike[random.integers(len(alike))]
        if other.shape == value.shape or other.numel() < value.numel():
            return "another argument", other
        return "in another argument's memory", other.flatten()[: value.numel()].view(value.shape)
    change = TENSOR_CHANGES[random.integers(len(TENSOR_CHANGES))]
    return change.__name__, change(value, random)


def hostile_calls(seed: int, changes: int = 1) -> Iterator[Hostile]:
    """Every operator with so many of its arguments changed."""
    random = np.random.default_rng(seed)
    for good in good_calls(seed):
        call, names, said = good.on("cpu"), [], []
        schema = getattr(torch.ops.ltd, call.name).default._schema.arguments
        right = list(call.arguments)
        others = [argument for argument in right if isinstance(argument, Tensor)]
        for place in random.choice(len(right), min(changes, len(right)), replace=False):
            change = change_of(right[place], others, random)
            if change is not None:
                what, call.arguments[place] = change
                names.append(schema[place].name)
                said.append(what)
        yield Hostile(call, " and ".join(names), " and ".join(said))


def change_of(value: object, others: list[Tensor], random: np.random.Generator) -> tuple[str, object] | None:
    """What was changed and what it became; None for what cannot be wrong."""
    if isinstance(value, Tensor):
        return changed_tensor(value, others, random)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return changed_integer(value, random)
    if isinstance(value, float):
        return changed_float(value, random)
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        place = int(random.integers(len(value)))
        what, new = changed_tensor(value[place], others, random)
        return what, [*value[:place], new, *value[place + 1 :]]
    return changed_integers(list(value), random) if isinstance(value, (list, tuple)) else None
