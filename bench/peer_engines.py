"""What one could generate with, each behind the same call, so that all of them are timed alike.

A peer's `generate(prompt, max_new_tokens, arrive)` decodes one prompt greedily and calls `arrive` with new tokens as
soon as the engine gives them out. The first of these calls ends the prefill.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from ltd.decoder import Decoder
from ltd.errors import InputError
from ltd.journal import Record
from ltd.lossless import greedy_settings
from ltd.models import gguf_cache
from ltd.policies import Policy

GGUF_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}  # llama.h: LLAMA_FTYPE_ALL_F32 and so on


@dataclass(slots=True)
class Arrivals:
    """One answer as it came in.

    Attributes:
        token_ids: so far.
        counts: tokens per arrival.
        times: in seconds on one clock: the start, then every arrival.
    """

    token_ids: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def __call__(self, tokens: Sequence[int]) -> None:
        """Notes new tokens at the moment of the call."""
        self.times.append(time.perf_counter())
        self.counts.append(len(tokens))
        self.token_ids.extend(tokens)

    @property
    def gains(self) -> list[int]:
        """Tokens per arrival after the first."""
        return self.counts[1:]

    @property
    def prefill_seconds(self) -> float:
        """From the start to the first arrival."""
        return self.times[1] - self.times[0]

    @property
    def decode_seconds(self) -> float:
        """From the first arrival to the last."""
        return self.times[-1] - self.times[1]


Arrive = Callable[[Sequence[int]], None]


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


class _ArrivalStreamer(BaseStreamer):  # type: ignore[misc]
    """Hands on what `generate` streams but for the first piece, which is the prompt."""

    def __init__(self, arrive: Arrive) -> None:
        self.arrive, self.is_prompt = arrive, True

    def put(self, value: torch.Tensor) -> None:
        if not self.is_prompt:
            self.arrive(value.flatten().tolist())
        self.is_prompt = False

    def end(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class TransformersPeer:
    """`generate` of `transformers`; with `lookup`, so many tokens at a time are looked up in the text so far."""

    model: PreTrainedModel
    stop_ids: Sequence[int]
    lookup: int | None

    def generate(self, prompt: list[int], max_new_tokens: int, arrive: Arrive) -> None:
        input_ids = torch.tensor([prompt])
        self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            prompt_lookup_num_tokens=self.lookup,
            streamer=_ArrivalStreamer(arrive),
            **greedy_settings(max_new_tokens, self.stop_ids),
        )


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

    folder = gguf_cache(gguf)
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
