"""The files of a chain draft: a small causal LM made of a few of its target's layers.

A folder holds `config.json`, the draft's own `transformers` config with an entry `ltd_chain` (`ChainFacts`);
`model.safetensors`, the layers and the final norm in bfloat16 and, where the vocabulary is trimmed, `words`, the token
ids that the draft proposes; and `training.json`. Token embedding and output rows are the target's own and not stored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ltd.common.argument_types import as_path
from ltd.common.files import expand_user, write_bytes, write_text
from ltd.common.foreign_errors import reason_of
from ltd.common.json_files import Count, Whole, read_json
from ltd.common.tensor_files import read_tensors
from ltd.errors import InputError
from ltd.target.locate import quiet_transformers
from ltd.target.model import check_family
from ltd.target.stored import check_sizes, stored_in

FORMAT, KEY = 1, "ltd_chain"
CONFIG, WEIGHTS, REPORT, WORDS = "config.json", "model.safetensors", "training.json", "words"
SHARED = ("model.embed_tokens.weight", "lm_head.weight")  # the target's own


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """What a chain draft was made from.

    Attributes:
        target: the target's name.
        tokenizer_fingerprint: see `ltd.target.model.tokenizer_fingerprint`.
        layers_of_target: which of the target's layers it began as.
        words: how many token ids it proposes; None is all.
    """

    target: str
    tokenizer_fingerprint: str
    layers_of_target: tuple[Whole, ...]
    words: Count | None


@dataclass(frozen=True, slots=True)
class ChainEntry(ChainFacts):
    """The facts as they are stored, with the number of their format."""

    format: int

    @property
    def facts(self) -> ChainFacts:
        """The facts alone."""
        return ChainFacts(self.target, self.tokenizer_fingerprint, self.layers_of_target, self.words)


class ChainConfig(TypedDict):
    """What `config.json` must say besides the fields of the model's own."""

    model_type: str
    ltd_chain: ChainEntry


@dataclass(frozen=True, slots=True, eq=False)
class ChainFiles:
    """A chain draft as it was read.

    Attributes:
        folder: where from.
        config: of the small model.
        facts: see there.
        tensors: the layers and the final norm, named as in the `transformers` model.
        words: int64 (Vd,), the token ids that it proposes; None is all.
    """

    folder: Path
    config: PretrainedConfig
    facts: ChainFacts
    tensors: dict[str, Tensor]
    words: Tensor | None


def save_chain(
    model: PreTrainedModel, words: Tensor | None, folder: Path, facts: ChainFacts, report: dict[str, Any]
) -> None:
    """Writes a chain draft; every file under a temporary name first, the report last: it marks the run as finished.

    Args:
        model: the small model.
        words: int (Vd,), the token ids that it proposes; None is all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in SHARED
    }
    if words is not None:
        tensors[WORDS] = words.to("cpu", torch.int32).contiguous()
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    entry = {"format": FORMAT, **asdict(facts)}
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_text(folder / CONFIG, json.dumps({**config, KEY: entry}, indent=1) + "\n")
    write_text(folder / REPORT, json.dumps(report, indent=1) + "\n")


def read_chain(folder: str | Path) -> ChainFiles:
    """Reads a chain draft.

    Raises:
        InputError: there is none in the folder, or it is damaged; the message says why.
    """
    folder = expand_user(as_path(folder, "the folder of a chain draft"))
    damaged = f"{folder} cannot be read as a chain draft"
    if not (folder / CONFIG).is_file():
        raise InputError(f"there is no chain draft in {folder}; ltd train-draft --kind chain makes one")
    try:
        file = read_json(folder / CONFIG, ChainConfig)
        if file["ltd_chain"].format != FORMAT:
            raise ValueError("it is of another format")
        check_family(file, str(folder))
        values = read_json(folder / CONFIG, dict[str, Any])
        config = AutoConfig.for_model(**{name: value for name, value in values.items() if name != KEY})
        check_sizes(config, stored_in(folder), str(folder), embedding=False)
        tensors = read_tensors(folder / WEIGHTS, WEIGHTS)
    except Exception as error:  # what a config may not say is known to transformers alone, and it raises anything
        raise InputError(f"{damaged} ({reason_of(error)})") from error
    facts = file["ltd_chain"].facts
    words = tensors.pop(WORDS, None)
    if words is not None and (words.dim() != 1 or words.dtype != torch.int32):
        raise InputError(f"{damaged} (its words are {words.dtype} of shape {tuple(words.shape)}, not a list of int32)")
    if (None if words is None else len(words)) != facts.words:
        raise InputError(f"{damaged} (it names {facts.words} words and holds others)")
    if words is not None and (words.min() < 0 or words.max() >= config.vocab_size or len(words.unique()) < len(words)):
        raise InputError(f"{damaged} (its words are not different ids of its vocabulary)")
    return ChainFiles(folder, config, facts, tensors, None if words is None else words.long())


def check_chain(files: ChainFiles, target: PretrainedConfig, fingerprint: str | None = None) -> None:
    """Raises InputError if a chain draft was made for another target.

    Args:
        target: the target's config.
        fingerprint: of its tokenizer, where that is known.
    """
    for name in ("model_type", "vocab_size", "hidden_size"):
        mine, theirs = getattr(files.config, name), getattr(target, name)
        if mine != theirs:
            raise InputError(
                f"the chain draft in {files.folder} was made for a target with {name} {mine!r}, not {theirs!r}; "
                "use one that was made for this target"
            )
    if fingerprint is not None and fingerprint != files.facts.tokenizer_fingerprint:
        raise InputError(f"the chain draft in {files.folder} was made for another tokenizer than this target's")


def load_layers(model: PreTrainedModel, files: ChainFiles) -> None:
    """Fills a small model with the stored layers and final norm; its embedding and output rows stay as they are."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in SHARED}
    for name in sorted(expected.keys() | files.tensors.keys()):  # a stored embedding would overwrite the target's own
        if name not in expected or name not in files.tensors or files.tensors[name].shape != expected[name]:
            raise InputError(f"{files.folder} cannot be read as a chain draft (its tensors do not fit: {name})")
    model.load_state_dict(files.tensors, strict=False)


def chain_for_transformers(folder: str | Path, target: PreTrainedModel) -> PreTrainedModel:
    """The draft as an ordinary model of `transformers`, for its assisted generation.

    It proposes from the whole vocabulary; its embedding and output layer are the target's parameters.

    Raises:
        InputError: no chain draft, or one that was made for another target.
    """
    files = read_chain(folder)
    check_chain(files, target.config)
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(files.config, dtype=target.dtype)
    model.set_input_embeddings(target.get_input_embeddings())
    model.set_output_embeddings(target.get_output_embeddings())
    rotary = type(model.model.rotary_emb)(files.config)
    model.model.layers.to_empty(device=target.device)
    model.model.norm.to_empty(device=target.device)
    model.model.rotary_emb = rotary.to(target.device)
    load_layers(model, files)
    model.generation_config = target.generation_config
    return model.eval()  # type: ignore[no-any-return]
