"""From a model to its forward: the one place that knows which kinds there are."""

from __future__ import annotations

from transformers import PreTrainedModel

from ltd.engine.attention import Attention, attend_tree
from ltd.engine.cpu import Engine
from ltd.engine.device import DeviceEngine
from ltd.engine.forward import Forward
from ltd.engine.packed_linear import pack_linears
from ltd.ops import build_info
from ltd.target.quantised import has_plain_layers
from ltd.target.transformers_layers import TransformersLayers


def open_forward(model: PreTrainedModel, *, takes_weights: bool, attention: Attention = attend_tree) -> Forward:
    """The fastest forward that there is for a model.

    Args:
        model: of a supported family, in evaluation mode.
        takes_weights: whether the weights may be packed away for speed; the model can then no longer run by itself.
        attention: of the layers of `transformers`, where they run it. Another than ours needs no kernels of ours, and
            so a GPU's engine, which does, is not chosen then.
    """
    if not takes_weights or not has_plain_layers(model):  # an engine would read quantised weights as if they were none
        return TransformersLayers(model, attention)
    if model.device.type == "cpu":
        if Engine.supports(model):
            return Engine(model)
        pack_linears(model)
    elif attention is attend_tree and build_info()["cuda"] and DeviceEngine.supports(model):
        return DeviceEngine(model)
    return TransformersLayers(model, attention)
