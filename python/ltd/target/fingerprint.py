"""Whether a model that is not ours is still as it was: what its keys and values depend on, to be compared later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
WORD = 8  # bytes that are summed together


@dataclass(frozen=True, slots=True)
class Same:
    """Equal to the very same thing alone. It holds the thing, so that no other can come to lie at its place."""

    thing: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def fingerprint(model: nn.Module) -> object | None:
    """What a model is now: its modules, all that they hold, and the values of all tensors among it.

    It finds what `transformers` and PyTorch change: weights by training or loading, exchanged and added modules, types,
    adapters and switches of modules, functions put in the place of methods. Of tensors it compares place, version and
    the sum of all bits, so it reads all of them once.

    Returns:
        something that is equal as long as nothing was changed. None where that cannot be told: a module has forward
        hooks, which may do anything, or a tensor's values cannot be read.
    """
    modules = list(model.modules())
    if any(vars(module)[name] for module in modules for name in HOOKS):
        return None
    look = _Look()
    try:
        return [(Same(type(module).forward), look.at(vars(module))) for module in modules]
    except (RuntimeError, NotImplementedError):  # of a tensor without plain memory
        return None


class _Look:
    """One look at a model: each tensor and configuration that several modules hold is read once."""

    def __init__(self) -> None:
        self._seen: dict[int, object] = {}

    def at(self, value: Any) -> object:
        """Something to compare an attribute's value by."""
        if isinstance(value, PLAIN):
            return type(value), value
        if isinstance(value, Tensor | PretrainedConfig):
            if id(value) not in self._seen:
                seen = values_of(value) if isinstance(value, Tensor) else self.at(vars(value))
                self._seen[id(value)] = seen
            return self._seen[id(value)]
        if isinstance(value, dict):
            return [(self.at(key), self.at(each)) for key, each in value.items()]
        if isinstance(value, list | tuple):
            return type(value), [self.at(each) for each in value]
        if isinstance(value, set | frozenset):
            return type(value), frozenset(value)
        return Same(value)


def values_of(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, how often it was written to, as far as PyTorch counts that, and the sum of its bits.

    Raises:
        RuntimeError: it has no plain memory.
    """
    version = 0 if tensor.is_inference() else tensor._version
    if hasattr(tensor, "to_local"):  # of a tensor that is spread over processes, this one has a part
        tensor = tensor.to_local()
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = len(content) // WORD * WORD
    sums = int(content[:whole].view(torch.int64).sum()), int(content[whole:].sum())
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape, sums
