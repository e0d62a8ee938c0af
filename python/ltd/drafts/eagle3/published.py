"""The layouts in which EAGLE-3 heads are published, converted to our own.

Known: the official ones (yuhuili), AngelSlim, SpecForge, speculators (RedHatAI) and NVIDIA ModelOpt. They are told
apart by what is in them: their `architectures` entries are unreliable, and so are the sizes in some configs, so sizes
are read off the tensors.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ltd.drafts.eagle3.head import Eagle3Config
from ltd.errors import InputError

LAYER_PREFIX = re.compile(r"^(midlayer|layers\.0)\.")
DROPPED = re.compile(r"^verifier_|(^|\.)rotary_emb\.")
NEEDED_FOR_SIZES = (
    "fc.weight",
    "lm_head.weight",
    "layer.self_attn.q_proj.weight",
    "layer.self_attn.k_proj.weight",
    "layer.mlp.gate_proj.weight",
)
Values = dict[str, Any]


def convert(
    values: Values, tensors: dict[str, Tensor], *, target: PreTrainedModel | None,
    feature_layers: tuple[int, ...] | None, where: str,
) -> tuple[Eagle3Config, dict[str, Tensor]]:  # fmt: skip
    """A published head's config.json and tensors -> our config and the tensors under canonical names.

    `target` fills in what a checkpoint may leave to it. Raises InputError for what is not an EAGLE-3 head.
    """
    refuse_other_families(values, tensors, where)
    tensors = canonical_names(tensors, where)
    # In speculators' files the layer's own fields are nested; the rest of the config is flat in every format.
    layer = values.get("transformer_layer_config") or values
    options = {**values, **(values.get("eagle_config") or {})}
    _complete_output(values, tensors, target, where)
    for name in NEEDED_FOR_SIZES:
        if name not in tensors:
            raise InputError(f"the draft head in {where} lacks {name}")
    hidden, columns = tensors["fc.weight"].shape
    target_hidden = int(_number(options, "target_hidden_size", hidden, where))
    _settle_embedding(tensors, options, hidden, target_hidden, where)
    _settle_vocabulary(tensors, layer, where)
    heads = _whole(layer, "num_attention_heads", where)
    head_dim = len(tensors["layer.self_attn.q_proj.weight"]) // heads
    theta, scaling = rope_settings(layer, where)
    config = Eagle3Config(
        hidden_size=hidden,
        intermediate_size=len(tensors["layer.mlp.gate_proj.weight"]),
        num_attention_heads=heads,
        num_key_value_heads=len(tensors["layer.self_attn.k_proj.weight"]) // max(1, head_dim),
        head_dim=head_dim,
        vocab_size=len(tensors["t2d"]),
        draft_vocab_size=len(tensors["lm_head.weight"]),
        target_hidden_size=target_hidden,
        feature_layers=feature_layers or layers_read(options, columns, target_hidden, target, where),
        rms_norm_eps=_number(layer, "rms_norm_eps", 1e-6, where),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=int(_number(layer, "max_position_embeddings", 2048, where)),
        attention_bias=_settle_bias(tensors, hidden),
        **norm_flags(values, options, tensors, where),
    )
    return config, tensors


def refuse_other_families(values: Values, tensors: dict[str, Tensor], where: str) -> None:
    """Raise InputError for heads of other methods, which share names with EAGLE-3's but compute something else."""
    family = values.get("speculators_model_type", "eagle3")
    if family != "eagle3":
        raise InputError(f"{where} holds a {family!r} draft; only EAGLE-3 heads can be loaded")
    if any(name.startswith("fc.fc.") for name in tensors):
        raise InputError(f"{where} holds a GRIFFIN draft; only EAGLE-3 heads can be loaded")
    has_fusion = any(re.search(r"(^|\.)fc\.weight$", name) for name in tensors)
    if not has_fusion:
        raise InputError(f"{where} holds no EAGLE-3 head: fc.weight is missing")
    if not any("hidden_norm" in name for name in tensors):
        raise InputError(f"{where} holds an EAGLE-1 or EAGLE-2 draft; only EAGLE-3 heads can be loaded")


def canonical_names(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename to the canonical names and drop copies of the target's parts; unknown names stay, to be reported."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = LAYER_PREFIX.sub("layer.", name.removeprefix("model."))
        if DROPPED.search(new):
            continue
        if new in renamed:
            raise InputError(f"the draft head in {where} holds {new} twice, once as {name}")
        renamed[new] = tensor
    return renamed


def layers_read(
    options: Values, columns: int, target_hidden: int, target: PreTrainedModel | None, where: str
) -> tuple[int, ...]:
    """The hs[] indices whose states the head reads, as many as its `fc` has columns for.

    Ids name either a layer's output (SpecForge, AngelSlim, NVIDIA) or hs[] itself (vLLM, speculators). A first id of 1
    is taken for the former: hs[2] is where all of these start by default.
    """
    if columns % target_hidden:
        raise InputError(
            f"the draft head in {where} reads {columns} values, not a multiple of the target's width {target_hidden}"
        )
    count = columns // target_hidden
    ids = options.get("eagle_aux_hidden_state_layer_ids")
    if ids is None:
        if target is None:
            raise InputError(f"the draft head in {where} names no feature layers; give feature_layers or the target")
        layers = target.config.num_hidden_layers
        ids = [2, layers // 2, layers - 3]
    elif ids and ids[0] == 1:
        ids = [index + 1 for index in ids]
    if len(ids) != count:
        raise InputError(f"the draft head in {where} names {len(ids)} feature layers, but reads {count}")
    return tuple(int(index) for index in ids)


def rope_settings(layer: Values, where: str) -> tuple[float, Values | None]:
    """(base, scaling or None); newer configs' `rope_parameters` goes first, and without any word the base is 10000."""
    scaling = dict(layer.get("rope_parameters") or layer.get("rope_scaling") or {})
    theta = _number({**layer, **scaling}, "rope_theta", 10000.0, where)
    scaling.pop("rope_theta", None)
    scaling["rope_type"] = scaling.get("rope_type") or scaling.pop("type", None) or "default"
    return theta, None if scaling["rope_type"] == "default" else scaling


def norm_flags(values: Values, options: Values, tensors: dict[str, Tensor], where: str) -> dict[str, Any]:
    """The four flags that say where a head has norms.

    Where an early speculators file is silent on `norm_before_residual`, that library's default holds: False.
    `norm_output` means two things: in speculators' files and inside `eagle_config`, states are fed back after the final
    norm (EAGLE-3.1); flat, as in SpecForge's, the final norm stands before the output layer, as it always does here.
    """
    nested = values.get("eagle_config") or {}
    fed_back_normed = False
    if "speculators_model_type" in values or "norm_output" in nested:
        fed_back_normed = bool(options.get("norm_output", False))
    elif values.get("norm_output", True) is False:
        raise InputError(f"the draft head in {where} has no norm before its output layer, which is not supported")
    return {
        "norm_before_residual": bool(options.get("norm_before_residual", False)),
        "norm_before_fc": bool(options.get("norm_before_fc", False)) or "input_norm.weight" in tensors,
        "fc_norm": bool(options.get("fc_norm", False)) or "fc_norm.0.weight" in tensors,
        "norm_output": fed_back_normed,
    }


def _complete_output(values: Values, tensors: dict[str, Tensor], target: PreTrainedModel | None, where: str) -> None:
    """A head that brings no output layer uses the target's."""
    if "lm_head.weight" in tensors:
        return
    output = target.get_output_embeddings() if target is not None else None
    if output is None or values.get("draft_vocab_size") not in (None, len(output.weight)):
        raise InputError(f"the draft head in {where} lacks lm_head.weight")
    tensors["lm_head.weight"] = output.weight.detach().cpu()


def _settle_embedding(tensors: dict[str, Tensor], options: Values, hidden: int, target_hidden: int, where: str) -> None:
    """Keep a head's own embedding only where the target's cannot serve: some exporters wrote random numbers."""
    if hidden == target_hidden and not options.get("embed_requires_grad", False):
        tensors.pop("embed_tokens.weight", None)
    elif hidden != target_hidden and "embed_tokens.weight" not in tensors:
        raise InputError(
            f"the draft head in {where} lacks embed_tokens.weight, which it needs as its width {hidden} is not the"
            f" target's {target_hidden}"
        )


def _settle_vocabulary(tensors: dict[str, Tensor], layer: Values, where: str) -> None:
    """Make d2t int64 and t2d bool, whatever of them is there."""
    words = len(tensors["lm_head.weight"])
    size = len(tensors["t2d"]) if "t2d" in tensors else _whole(layer, "vocab_size", where)
    if "d2t" not in tensors:
        if words != size:
            raise InputError(f"the draft head in {where} lacks d2t, though it knows only {words} of {size} words")
        tensors["d2t"] = torch.zeros(words, dtype=torch.int64)
    if "t2d" not in tensors:
        ids = tensors["d2t"].long() + torch.arange(len(tensors["d2t"]))
        inside = ids[(ids >= 0) & (ids < size)]  # ids outside are reported with the other checks
        tensors["t2d"] = torch.zeros(size, dtype=torch.bool).index_fill(0, inside, True)
    tensors["t2d"] = tensors["t2d"].bool()


def _settle_bias(tensors: dict[str, Tensor], hidden: int) -> bool:
    """Whether the attention has biases; Qwen2's style has none on the output, which equals zeros."""
    biased = "layer.self_attn.q_proj.bias" in tensors
    if biased:
        tensors.setdefault("layer.self_attn.o_proj.bias", torch.zeros(hidden))
    return biased


def _whole(values: Values, name: str, where: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"the config of the draft head in {where} says {name} = {value!r}; a whole number is needed")
    return value


def _number(values: Values, name: str, default: float, where: str) -> float:
    value = default if values.get(name) is None else values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"the config of the draft head in {where} says {name} = {value!r}; a number above 0 is needed")
    return float(value)
