"""EAGLE-3 heads in our own layout and in those that serving engines load: the way back from `published`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from ltd.common.files import write_bytes, write_text
from ltd.drafts.eagle3.files import FORMAT, load_head
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.eagle3.published_config import FEATURE_LAYERS, LAYER_IDS, Values
from ltd.drafts.sharpness import SAMPLING, copy_sharpness
from ltd.errors import InputError

FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


def export_head(head: Eagle3Head, layout: str, out: str | Path, beside: Sequence[Path] = ()) -> None:
    """Writes `config.json` and `model.safetensors` of a head into a folder, weights in the head's dtype.

    The embedding is written only where the head has one of its own; engines share the target's. What fails leaves
    nothing behind: the files are moved to their place when they have been read back.

    Args:
        head: of any dtype.
        layout: one of `LAYOUTS`. vLLM counts feature layers as we do, SGLang by the layer whose output they are; where
            the ids alone can be read both ways when the head is loaded here again, a key of ours says which.
        out: a folder, made where it is missing; it must not hold a head.
        beside: other files that go into the folder too.

    Raises:
        InputError: an unknown layout, a folder that holds a head, a head that the layout has no words for, or factors
            beside it that are not its own.
    """
    if layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}; use one of {', '.join(LAYOUTS)}")
    folder = Path(out)
    if (folder / "config.json").exists():
        raise InputError(f"{folder} holds a config.json already; name a new folder")
    config, prefix = LAYOUTS[layout](head)
    tensors = {re.sub(r"^layer\.", prefix, name): tensor for name, tensor in head.state_dict().items()}
    if layout == "speculators" and head.config.draft_vocab_size == head.config.vocab_size:
        # Its files have no map where the vocabulary is whole; another order than the target's has no words there.
        _check_order(head)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in ("d2t", "t2d")}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # In the folder itself where there is one: it may be a file system of its own.
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ltd-export-", dir=place) as unfinished:
        written = Path(unfinished)
        write_bytes(written / "model.safetensors", save(stored, metadata={"format": "pt"}))
        for file in beside:
            if file.name == SAMPLING:
                copy_sharpness(file.parent, written)  # it names the weights' file, and this is another one
            else:
                write_bytes(written / file.name, file.read_bytes())
        write_text(written / "config.json", json.dumps(config, indent=1) + "\n")
        check_export(head, written)
        folder.mkdir(parents=True, exist_ok=True)
        # The config goes last, so that a folder with a config is whole.
        for name in ("model.safetensors", *(file.name for file in beside), "config.json"):
            (written / name).replace(folder / name)


def check_export(head: Eagle3Head, folder: Path) -> None:
    """Raises RuntimeError unless a folder loads as this head; what has no place in the layout aside, its origin."""
    again = load_head(folder, head.fc.weight.dtype, head.fc.weight.device)
    lost = ("target", "tokenizer_fingerprint")
    one, other = ({k: v for k, v in each.config.to_dict().items() if k not in lost} for each in (head, again))
    changed = [name for name in one if one[name] != other[name]]
    tensors = again.state_dict()
    changed += [name for name, tensor in head.state_dict().items() if not torch.equal(tensor, tensors[name])]
    if changed:
        raise RuntimeError(f"what was written to {folder} differs from the head in {', '.join(changed)}")


def _for_ltd(head: Eagle3Head) -> tuple[Values, str]:
    return {"format": FORMAT, **head.config.to_dict()}, "layer."


def _for_vllm(head: Eagle3Head) -> tuple[Values, str]:
    flags = {name: getattr(head.config, name) for name in FLAGS}
    return _flat(head, list(head.config.feature_layers), flags), "midlayer."


def _for_sglang(head: Eagle3Head) -> tuple[Values, str]:
    config = head.config
    if set_flags := [name for name in FLAGS if getattr(config, name)]:
        raise InputError(
            f"a head with {', '.join(set_flags)} is exported for vLLM or speculators only: what SGLang makes of it is "
            "not known"
        )
    if 0 in config.feature_layers:
        raise InputError(
            "SGLang names feature layers by the layer whose output they are, so it has no name for the embedding, "
            "feature layer 0 of this head"
        )
    return _flat(head, [index - 1 for index in config.feature_layers], {}), "midlayer."


def _flat(head: Eagle3Head, ids: list[int], flags: Values) -> Values:
    """A config in the form of the official heads, with the flags of EAGLE-3.1 where both generations look for them."""
    config = head.config
    nested = {LAYER_IDS: ids, "use_aux_hidden_state": True, **flags}
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        **_layer(config),
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.target_hidden_size,
        "embed_requires_grad": head.embed_tokens is not None,
        **flags,
        LAYER_IDS: ids,
        "eagle_config": nested,
        FEATURE_LAYERS: list(config.feature_layers),
    }


def _for_speculators(head: Eagle3Head) -> tuple[Values, str]:
    config = head.config
    proposal = {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0}
    values = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": config.draft_vocab_size,
        **{name: getattr(config, name) for name in FLAGS},
        "target_hidden_size": config.target_hidden_size,
        LAYER_IDS: list(config.feature_layers),
        FEATURE_LAYERS: list(config.feature_layers),
        "embed_requires_grad": head.embed_tokens is not None,
        "transformer_layer_config": _layer(config),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": config.target, "architectures": []},
        },
    }
    return values, "layers.0."


def _layer(config: Eagle3Config) -> Values:
    """The fields of a Llama of one layer. RoPE is said in the new and in the old words."""
    scaling = config.rope_scaling
    return {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **(scaling or {"rope_type": "default"})},
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }


def _check_order(head: Eagle3Head) -> None:
    if bool(head.d2t.any()):
        raise InputError(
            "a head whose whole vocabulary has another order than the target's has no place in speculators"
        )


LAYOUTS: dict[str, Callable[[Eagle3Head], tuple[Values, str]]] = {
    "ltd": _for_ltd,
    "vllm": _for_vllm,
    "sglang": _for_sglang,
    "speculators": _for_speculators,
}
"""By the engine's name: its config for a head, and what its tensors' names have in place of `layer.`."""
