"""What a model's files hold, compared with what its config asks for, and with what became of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ltd.common.foreign_errors import reason_of
from ltd.engine.kv_cache import key_value_sizes
from ltd.errors import InputError

LEAST_BYTES = 64  # that a file spends on a tensor, its name and place included
# The sizes of a config, and the least of each; a text has a token to read and one to write.
SIZES = {
    "vocab_size": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2,
}
ROPE_NUMBERS = ("rope_theta", "factor", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True)
class Stored:
    """Attributes: tensors, numbers: how many there are, at most."""

    tensors: int
    numbers: int


def stored_in(folder: Path) -> Stored:
    """What the weight files of a folder hold. Raises InputError if one cannot be read."""
    if files := sorted(folder.glob("*.safetensors")):
        shapes = []
        for file in files:
            try:
                with safe_open(file, framework="pt") as content:
                    shapes += [content.get_slice(name).get_shape() for name in content.keys()]  # noqa: SIM118
            except (SafetensorError, OSError, ValueError) as error:
                what = f"cannot load the model in {str(folder)!r}: {file.name}"
                raise InputError(f"{what}: {reason_of(error)}") from error
        return Stored(len(shapes), sum(map(_product, shapes)))
    size = sum(file.stat().st_size for file in folder.glob("*.bin"))
    return Stored(size // LEAST_BYTES, size)


def stored_in_gguf(file: Path) -> Stored:
    """What a GGUF file holds. Raises InputError if it is only a part of a model."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    parts = reader.get_field("split.count")
    if parts is not None and (count := int(parts.contents())) > 1:
        raise InputError(f"it is one of {count} parts; join them with llama.cpp's gguf-split --merge")
    if not reader.tensors:
        raise InputError("it holds no tensors")
    return Stored(len(reader.tensors), sum(_product(tensor.shape.tolist()) for tensor in reader.tensors))


def check_counts(sizes: Mapping[str, Any], place: str) -> None:
    """Raises InputError if one of a config's sizes, by name, is none; `place` is for the message."""
    for name, size in sizes.items():
        if type(size) is not int or not SIZES[name] <= size < 2**31:
            raise InputError(
                f"the config of {place!r} says {name} = {size!r}, but it must be a whole number, "
                f"{SIZES[name]} … 2^31 - 1"
            )


def check_numbers(config: PretrainedConfig, place: str) -> None:
    """Raises InputError if a model cannot be computed with the numbers of its config; `place` is for the message."""
    check_counts({name: getattr(config, name, None) for name in SIZES}, place)
    kv_heads, head_dim = key_value_sizes(config)
    if type(head_dim) is not int or head_dim < 2 or head_dim % 2 or config.num_attention_heads % kv_heads:
        raise InputError(
            f"the config of {place!r} says {config.num_attention_heads} heads of {head_dim} numbers for {kv_heads} "
            "key/value heads; heads must be a multiple of these, and of an even number"
        )
    stated = getattr(config, "rope_parameters", None)
    rope = stated if isinstance(stated, Mapping) else {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]  # one for each kind of layer, or all
    for name, number in ((name, part[name]) for part in parts for name in ROPE_NUMBERS if part.get(name) is not None):
        if not _is_real(number) or number <= 0:
            raise InputError(f"the config of {place!r} says {name} = {number!r}, but it must be a number above 0")
    eps = getattr(config, "rms_norm_eps", 0)
    if not _is_real(eps) or eps < 0:
        raise InputError(f"the config of {place!r} says rms_norm_eps = {eps!r}, but it must be a number of at least 0")


def check_sizes(
    config: PretrainedConfig, stored: Stored, place: str, *, embedding: bool = True, packed: int = 1
) -> None:
    """Raises InputError if a config's numbers are none, or ask for more than there is, before anything is allocated.

    Args:
        config: of a model.
        stored: in its files.
        place: for the message.
        embedding: whether the token embedding must be in them.
        packed: weights that one number of them may hold.
    """
    check_numbers(config, place)
    kv_heads, head_dim = key_value_sizes(config)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    attention = 2 * (config.num_attention_heads + kv_heads) * head_dim
    needed = hidden * (config.vocab_size * embedding + layers * (attention + 3 * config.intermediate_size))
    if layers > stored.tensors or needed > packed * stored.numbers:
        raise InputError(
            f"the config of {place!r} asks for {layers} layers with {needed} weights in all, but its files hold only "
            f"{stored.numbers} in {stored.tensors} tensors"
        )


def load_whole(folder: str | Path, place: str, **options: Any) -> PreTrainedModel:
    """A causal LM by `transformers`, every weight of which came from its files.

    Args:
        folder: or hub name.
        place: for messages.
        options: of `from_pretrained`.

    Raises:
        InputError: a weight is missing, unknown or of another shape.
        Anything else: that `transformers` raises at what it cannot read.
    """
    # Weights of other shapes are reported with the others instead of in many lines.
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    model, info = loaded
    check_complete(info, place)
    return model  # type: ignore[no-any-return]


def check_complete(info: Mapping[str, Any], place: str) -> None:
    """Raises InputError unless loading used every weight in the files for every weight of the model.

    Args:
        info: what `from_pretrained` says of it.
        place: for the message.
    """
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        hint = f"; it holds {unknown[0]}, which is not of such a model" if unknown else ""
        raise InputError(f"the weights in {place!r} lack {_some(missing)}{hint}; use a whole model")
    if unknown:
        raise InputError(f"the weights in {place!r} hold {_some(unknown)}, which its config knows nothing of")
    if wrong := sorted(info["mismatched_keys"]):
        name, found, wanted = wrong[0]
        raise InputError(
            f"the weights in {place!r} hold {name} of shape {tuple(found)}, but its config asks for {tuple(wanted)}"
        )
    if errors := info["error_msgs"]:
        raise InputError(f"cannot load the model in {place!r}: {errors[0]}")


def _some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _product(shape: list[int]) -> int:
    numbers = 1
    for size in shape:
        numbers *= int(size)
    return numbers
