"""What one could generate with, each behind the same call, so that all of them are timed alike.

A peer's `generate(prompt, max_new_tokens, arrive)` decodes one prompt greedily and calls `arrive` with new tokens as
soon as the engine gives them out. The first of these calls ends the prefill.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel

from ltd.common.files import cache_folder
from ltd.common.journal import Record
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.evaluation import transformers_reference as hf_reference
from ltd.evaluation.transformers_reference import Arrivals, Arrive, greedy_settings
from ltd.policies import Policy
from ltd.target.locate import gguf_name

GGUF_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}  # llama.h: LLAMA_FTYPE_ALL_F32 and so on


class Peer(Protocol):
    """Something that generates."""

    def generate(self, prompt: list[int], max_new_tokens: int, arrive: Arrive) -> None:
        """Greedily, to a stop token (which is given out, too) or the limit."""


def answer(peer: Peer, prompt: list[int], max_new_tokens: int) -> Record:
    """Generates one answer, and returns what is known of it."""
    arrivals = Arrivals()
    peer.generate(prompt, max_new_tokens, arrivals)
    return {
        "prompt_tokens": len(prompt),
        "new_tokens": len(arrivals.token_ids),
        "gains": arrivals.gains,
        "cycles": len(arrivals.gains),
        "prefill_seconds": arrivals.prefill_seconds,
        "decode_seconds": arrivals.decode_seconds,
        "token_ids": arrivals.token_ids,
    }


@dataclass(frozen=True, slots=True)
class LtdPeer:
    """This project, with one policy."""

    decoder: Decoder
    policy: Policy | Literal["none"]

    def generate(self, prompt: list[int], max_new_tokens: int, arrive: Arrive) -> None:
        for tokens in self.decoder.stream(prompt, max_new_tokens=max_new_tokens, policy=self.policy):
            arrive(tokens)


@dataclass(frozen=True, slots=True)
class TransformersPeer:
    """`generate` of `transformers`; with `lookup`, so many tokens at a time are looked up in the text so far."""

    model: PreTrainedModel
    stop_ids: Sequence[int]
    lookup: int | None

    def generate(self, prompt: list[int], max_new_tokens: int, arrive: Arrive) -> None:
        settings = greedy_settings(max_new_tokens, self.stop_ids)
        hf_reference.generate(self.model, prompt, arrive, settings, lookup=self.lookup)


class LlamaCppPeer:
    """llama.cpp through llama-cpp-python, as its own programs run it on a CPU.

    Args:
        gguf: the model's file.
        context: the most tokens of prompt and answer together.
        threads: CPU threads.
        stop_ids: tokens that end an answer.
        lookup: the most tokens that are looked up in the text so far, or None for plain decoding.
    """

    def __init__(self, gguf: Path, context: int, threads: int, stop_ids: Sequence[int], lookup: int | None) -> None:
        from llama_cpp import Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.stop_ids = frozenset(stop_ids)
        self.llama = Llama(
            str(gguf),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,  # llama.cpp's own choice on a CPU; the Python package turns it off
            logits_all=lookup is not None,  # else a draft model fails on prompts of more than one batch
            draft_model=None if lookup is None else LlamaPromptLookupDecoding(num_pred_tokens=lookup),
            verbose=False,
        )

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.llama.n_vocab())

    def generate(self, prompt: list[int], max_new_tokens: int, arrive: Arrive) -> None:
        self.llama.reset()  # else what this prompt shares with the last one would not be read again
        for count, token in enumerate(self.llama.generate(prompt, temp=0.0), 1):
            arrive([token])
            if token in self.stop_ids or count == max_new_tokens:
                return


def llama_cpp_refusal(gguf: Path | None) -> str | None:
    """Why llama.cpp cannot take part, for people; None if it can."""
    try:
        importlib.import_module("llama_cpp")
    except ModuleNotFoundError:
        return "llama.cpp is left out: llama-cpp-python is not installed; pip install llama-cpp-python"
    except Exception as error:  # its shared libraries may be missing or made for another machine
        return f"llama.cpp is left out: llama-cpp-python does not load ({error}); install it again"
    if gguf is None:
        return "llama.cpp is left out: it needs the target as a GGUF file; name one with --gguf"
    return None


def llama_cpp_build() -> str:
    """What the installed llama.cpp was compiled with."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    return str(llama_cpp.llama_print_system_info().decode()).strip(" |")


def converted(gguf: Path, dtype: torch.dtype) -> Path:
    """The GGUF file with its weights in this type; made once, in the cache folder of `ltd`."""
    import llama_cpp

    folder = cache_folder() / gguf_name(gguf)
    file = folder.with_name(f"{folder.name}-{str(dtype).removeprefix('torch.')}.gguf")
    if not file.is_file():
        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # it would log every tensor
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize = GGUF_TYPES[dtype], True
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        if llama_cpp.llama_model_quantize(bytes(gguf), bytes(unfinished), settings) != 0:
            raise InputError(f"llama.cpp cannot convert {gguf} to {dtype}; name another file with --gguf")
        unfinished.replace(file)
    return file
