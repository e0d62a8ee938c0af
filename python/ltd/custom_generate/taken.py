"""Models whose weights an engine takes over: what must hold before that, and what is refused from then on.

An engine computes what the configuration of a model says. Whatever else somebody has put into the model would be passed
over without a word, so such a model is refused; and what would read weights that are gone is refused as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ltd.engine.packed_linear import PackedLinear, is_plain
from ltd.errors import InputError
from ltd.parallel.sharding import is_sharded

TAKEN = "an engine of ltd has this model's weights, so it can generate, by what gave them to it, and nothing else"
ADVICE = "load the model once more for other uses, or leave its weights where they are (takes_weights=False)"


def check_whole(model: PreTrainedModel) -> None:
    """Raises InputError if an engine has taken a model's weights already."""
    if is_emptied(model):
        raise InputError(f"{TAKEN}; {ADVICE}")


def check_takeable(model: PreTrainedModel) -> None:
    """Raises InputError unless a model is what its configuration says, whole and on one device, and no more than that.

    Hooks, adapters, quantised layers, and layers on several devices are examples of what is refused.
    """
    reason = next(_obstacles(model), None)
    if reason is not None:
        raise InputError(f"the weights of this model cannot be taken over: {reason}; use takes_weights=False")


def guard(model: PreTrainedModel) -> None:
    """Has everything refused that would read weights which the model no longer has; nothing while it has all of them.

    A model whose layers were only packed still runs, but has no weights to be saved.
    """

    def refuse(*_: object) -> None:
        raise InputError(f"{TAKEN}; {ADVICE}")

    emptied = is_emptied(model)
    if emptied:
        model.register_forward_pre_hook(refuse)
    if emptied or any(isinstance(part, PackedLinear) for part in model.modules()):
        model.register_state_dict_pre_hook(refuse)  # `save_pretrained` asks for it too


def is_emptied(model: PreTrainedModel) -> bool:
    """Whether linear layers of a model are without their weights."""
    return any(isinstance(part, nn.Linear) and part.weight.numel() == 0 for part in model.modules())


def _obstacles(model: PreTrainedModel) -> Iterator[str]:
    """Why an engine cannot stand for a model."""
    if is_sharded(model):
        yield "they are spread over several processes"
    devices = {str(each.device) for each in model.parameters()}
    if len(devices) != 1 or "meta" in devices:
        yield f"its weights are on {', '.join(sorted(devices))}, not on one device"
    with torch.device("meta"):
        made: dict[str, type] = {name: type(part) for name, part in _fresh(model).named_modules()}
    for name, part in model.named_modules():
        if made.get(name) is not type(part):
            yield f"{name} is a {type(part).__name__}, which its configuration does not say"
        if isinstance(part, nn.Linear) and not is_plain(part):
            yield f"{name} is quantised"
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        if "forward" in vars(part) or not all(map(_only_looks, hooks)):
            yield f"{name or 'the model'} has hooks, or a forward of its own"


def _fresh(model: PreTrainedModel) -> PreTrainedModel:
    """Another model of the same configuration."""
    return type(model)(copy.deepcopy(model.config))


def _only_looks(hook: object) -> bool:
    """Whether a hook is one with which `transformers` collects hidden states, once somebody has asked for them."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")
