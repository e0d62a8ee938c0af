"""The layouts in which EAGLE-3 heads are published, converted to our own.

Known: the official ones (yuhuili), AngelSlim, SpecForge, speculators (RedHatAI) and NVIDIA ModelOpt. They are told
apart by what is in them: their `architectures` entries are unreliable, and so are the sizes in some configs, so sizes
are read off the tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ltd.drafts.eagle3.head import Eagle3Config
from ltd.drafts.eagle3.published_config import FEATURE_LAYERS, LAYER_IDS, Values, check_values
from ltd.engine.packed_linear import is_plain
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
# Of all tensors whose sizes are read; the others are compared with these at the end.
DIMENSIONS = {**dict.fromkeys(NEEDED_FOR_SIZES, 2), "d2t": 1, "t2d": 1}


class HeadDecision(NamedTuple):
    """One thing about a published head that had to be settled.

    Attributes:
        what: it is.
        found: what the files say.
        used: what is made of it.
    """

    what: str
    found: str
    used: str


@dataclass(slots=True)
class HeadDecisions:
    """What was decided about a head, in order, see `ltd inspect`."""

    made: list[HeadDecision] = field(default_factory=list)

    def add(self, what: str, found: Any, used: Any) -> None:
        """One more; both are shown as text."""
        self.made.append(HeadDecision(what, str(found), str(used)))


def convert(
    values: Values, tensors: dict[str, Tensor], *, target: PreTrainedModel | None,
    feature_layers: tuple[int, ...] | None, where: str, decisions: HeadDecisions | None = None,
) -> tuple[Eagle3Config, dict[str, Tensor]]:  # fmt: skip
    """A published head's config.json and tensors -> our config and the tensors under canonical names.

    `target` fills in what a checkpoint may leave to it; `decisions` are told what was decided. Raises InputError for
    what is not an EAGLE-3 head, or a config with a wrong value.
    """
    decided = HeadDecisions() if decisions is None else decisions
    refuse_other_families(values, tensors, where)
    check_values(values, where)
    decided.add("layout", f"architectures {values.get('architectures')}", layout_of(values, tensors))
    tensors = canonical_names(tensors, where, decided)
    # In speculators' files the layer's own fields are nested; the rest of the config is flat in every format.
    layer = values.get("transformer_layer_config") or values
    options = {**values, **(values.get("eagle_config") or {})}
    _complete_output(values, tensors, target, where, decided)
    check_dimensions(tensors, where)
    hidden, columns = tensors["fc.weight"].shape
    target_hidden = options.get("target_hidden_size") or hidden
    decided.add(
        "width", f"target_hidden_size {options.get('target_hidden_size')}", f"{hidden}, the target's {target_hidden}"
    )
    _settle_embedding(tensors, options, hidden, target_hidden, where, decided)
    _settle_vocabulary(tensors, layer, where, decided)
    decided.add("layers", f"num_hidden_layers {layer.get('num_hidden_layers')}", "1, as every EAGLE-3 head has")
    heads = _whole(layer, "num_attention_heads", where)
    head_dim = len(tensors["layer.self_attn.q_proj.weight"]) // heads
    decided.add("size of a head", f"head_dim {layer.get('head_dim')}", f"{head_dim}, by q_proj and {heads} heads")
    theta, scaling = rope_settings(layer)
    rope = {name: layer[name] for name in ("rope_parameters", "rope_theta", "rope_scaling") if layer.get(name)}
    decided.add("RoPE", rope or "nothing", f"base {theta:g}, {scaling or 'not scaled'}")
    decided.add(
        "positions", f"max_position_embeddings {layer.get('max_position_embeddings')}", "any, as there is no table"
    )
    layers = feature_layers or layers_read(options, columns, target_hidden, target, where)
    ids = {name: options[name] for name in (FEATURE_LAYERS, LAYER_IDS) if options.get(name) is not None}
    used = f"hs{list(layers)}" + (", as was asked for" if feature_layers else "")
    decided.add("feature layers", ids or "no ids, so 2, N // 2 and N - 3", used)
    flags = norm_flags(values, options, tensors, where)
    said = {name: options.get(name) for name in flags if name in options}
    decided.add("norms", said or "nothing", ", ".join(name for name, is_set in flags.items() if is_set) or "the usual")
    biased = _settle_bias(tensors, hidden)
    decided.add("biases of attention", f"attention_bias {layer.get('attention_bias')}", "there" if biased else "none")
    config = Eagle3Config(
        hidden_size=hidden,
        intermediate_size=len(tensors["layer.mlp.gate_proj.weight"]),
        num_attention_heads=heads,
        num_key_value_heads=len(tensors["layer.self_attn.k_proj.weight"]) // max(1, head_dim),
        head_dim=head_dim,
        vocab_size=len(tensors["t2d"]),
        draft_vocab_size=len(tensors["lm_head.weight"]),
        target_hidden_size=target_hidden,
        feature_layers=layers,
        rms_norm_eps=layer.get("rms_norm_eps") or 1e-6,
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=layer.get("max_position_embeddings") or 2048,
        attention_bias=biased,
        **flags,
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


def layout_of(values: Values, tensors: dict[str, Tensor]) -> str:
    """Whose layout a head has, by what is in it."""
    if "speculators_model_type" in values:
        return "speculators"
    if any(name.removeprefix("model.").startswith("midlayer.") for name in tensors):
        return "the official one (EAGLE, AngelSlim, SpecForge; vLLM and SGLang load it)"
    return "NVIDIA ModelOpt"


def canonical_names(tensors: dict[str, Tensor], where: str, decided: HeadDecisions) -> dict[str, Tensor]:
    """Rename to the canonical names and drop copies of the target's parts; unknown names stay, to be reported."""
    renamed: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, tensor in tensors.items():
        new = LAYER_PREFIX.sub("layer.", name.removeprefix("model."))
        if DROPPED.search(new):
            dropped.append(name)
            continue
        if new in renamed:
            raise InputError(f"the draft head in {where} holds {new} twice, once as {name}")
        renamed[new] = tensor
    if dropped:
        decided.add("tensors", ", ".join(dropped), "left out: copies of the target's parts, or tables")
    return renamed


def check_dimensions(tensors: dict[str, Tensor], where: str) -> None:
    """Raise InputError unless the tensors whose sizes are read are there and have sizes to read."""
    for name in NEEDED_FOR_SIZES:
        if name not in tensors:
            raise InputError(f"the draft head in {where} lacks {name}")
    for name, count in DIMENSIONS.items():
        if name in tensors and (tensors[name].ndim != count or not tensors[name].numel()):
            raise InputError(
                f"the draft head in {where}: {name} has shape {tuple(tensors[name].shape)}, but must have {count} "
                f"dimension{'s' if count > 1 else ''}, none of them 0"
            )


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
    own = options.get(FEATURE_LAYERS)
    ids = options.get(LAYER_IDS) if own is None else own
    if ids is None:
        if target is None:
            raise InputError(f"the draft head in {where} names no feature layers; give feature_layers or the target")
        layers = target.config.num_hidden_layers
        ids = [2, layers // 2, layers - 3]
    elif own is None and ids[:1] == [1]:
        ids = [index + 1 for index in ids]
    if len(ids) != count:
        raise InputError(f"the draft head in {where} names {len(ids)} feature layers, but reads {count}")
    return tuple(ids)


def rope_settings(layer: Values) -> tuple[float, Values | None]:
    """(base, scaling or None); newer configs' `rope_parameters` goes first, and without any word the base is 10000."""
    scaling = dict(layer.get("rope_parameters") or layer.get("rope_scaling") or {})
    theta = float(scaling.pop("rope_theta", None) or layer.get("rope_theta") or 10000.0)
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


def _complete_output(
    values: Values, tensors: dict[str, Tensor], target: PreTrainedModel | None, where: str, decided: HeadDecisions
) -> None:
    """A head that brings no output layer uses the target's."""
    tied = f"tie_word_embeddings {values.get('tie_word_embeddings')}"
    if "lm_head.weight" in tensors:
        decided.add("output layer", f"lm_head.weight, {tied}", "the head's own")
        return
    output = target.get_output_embeddings() if target is not None else None
    if output is None or not is_plain(output) or values.get("draft_vocab_size") not in (None, len(output.weight)):
        raise InputError(f"the draft head in {where} lacks lm_head.weight")
    tensors["lm_head.weight"] = output.weight.detach().cpu()
    decided.add("output layer", f"no lm_head.weight, {tied}", "the target's")


def _settle_embedding(
    tensors: dict[str, Tensor], options: Values, hidden: int, target_hidden: int, where: str, decided: HeadDecisions
) -> None:
    """Keep a head's own embedding only where the target's cannot serve: some exporters wrote random numbers."""
    found = "embed_tokens.weight" if "embed_tokens.weight" in tensors else "no embed_tokens.weight"
    if hidden == target_hidden and not options.get("embed_requires_grad", False):
        tensors.pop("embed_tokens.weight", None)
    elif hidden != target_hidden and "embed_tokens.weight" not in tensors:
        raise InputError(
            f"the draft head in {where} lacks embed_tokens.weight, which it needs as its width {hidden} is not the"
            f" target's {target_hidden}"
        )
    decided.add("embedding", found, "the head's own" if "embed_tokens.weight" in tensors else "the target's")


def _settle_vocabulary(tensors: dict[str, Tensor], layer: Values, where: str, decided: HeadDecisions) -> None:
    """Make d2t int64 and t2d bool, whatever of them is there."""
    found = ", ".join(name for name in ("d2t", "t2d") if name in tensors) or "neither d2t nor t2d"
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
    decided.add("vocabulary", found, f"{words} of the target's {size} words")


def _settle_bias(tensors: dict[str, Tensor], hidden: int) -> bool:
    """Whether the attention has biases; Qwen2's style has none on the output, which equals zeros."""
    biased = "layer.self_attn.q_proj.bias" in tensors
    if biased:
        tensors.setdefault("layer.self_attn.o_proj.bias", torch.zeros(hidden))
    return biased


def _whole(values: Values, name: str, where: str) -> int:
    if values.get(name) is None:
        raise InputError(f"the config of the draft head in {where} does not say {name}; a whole number is needed")
    return int(values[name])
