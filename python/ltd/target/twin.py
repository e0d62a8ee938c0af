"""A twin of a model: the same weights, in modules and with a configuration of its own.

What has to be different for us, the attention and the taps, is different in the twin. So the model itself is never
changed, not even for a moment in which another thread might use it.
"""

from __future__ import annotations

import copy
from functools import partial
from types import MethodType
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

# What every module keeps in dictionaries: parameters, buffers, submodules and hooks.
KEPT = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))


def twin_of(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """A twin of a model as it is now.

    It has the model's own parameters, buffers and hooks. Later changes of their values reach it; modules, adapters or
    buffers that are exchanged later do not.

    Args:
        model: any.
        attention: the registered name of the attention that the twin's layers call.
    """
    twin: PreTrainedModel = _Twins(model, attention).of(model)
    return twin


class _Twins:
    """The twins of all modules and configurations that a model consists of."""

    def __init__(self, model: PreTrainedModel, attention: str) -> None:
        self._attention = attention
        modules = list(model.modules())
        self._made: dict[int, Any] = {id(module): object.__new__(type(module)) for module in modules}
        for module in modules:
            twin = self._made[id(module)]
            for name, value in vars(module).items():
                vars(twin)[name] = self._copied(value) if name in KEPT else self.of(value)
            vars(twin)["_compiled_call_impl"] = None  # it would run the model itself

    def of(self, value: Any) -> Any:
        """What stands in the twin for an attribute's value: another object only where that leads to a module."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, PretrainedConfig):
            self._made[id(value)] = config = copy.copy(value)
            config._attn_implementation = self._attention
            return config
        if isinstance(value, MethodType) and id(value.__self__) in self._made:
            return MethodType(value.__func__, self._made[id(value.__self__)])
        if type(value) is partial:  # how offloading wraps a module's forward
            keywords = {name: self.of(each) for name, each in value.keywords.items()}
            return partial(self.of(value.func), *map(self.of, value.args), **keywords)
        if isinstance(value, dict | list) and any(isinstance(each, nn.Module) for each in _values(value)):
            return self._copied(value)
        return value

    def _copied(self, container: Any) -> Any:
        """A copy of a dictionary or list, whose values are the twins'."""
        result = copy.copy(container)
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            result[key] = self.of(value)
        return result


def _values(container: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container
