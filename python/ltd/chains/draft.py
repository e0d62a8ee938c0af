"""A chain draft at work: a small causal LM beside the target, with a cache of its own.

It runs on the CPU engine, reads with the target's token embedding, and proposes from its own packed copy of the
target's output rows, of all words or of those that it was trimmed to.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.chains.model_files import ChainFiles, check_chain, load_layers, read_chain
from ltd.engine.cpu import Engine
from ltd.engine.forward import Forward, TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.pool import CachePool
from ltd.errors import InputError
from ltd.target.locate import quiet_transformers
from ltd.target.model import tokenizer_fingerprint
from ltd.target.target import Target

READ_CHUNK = 512


@dataclass(frozen=True, slots=True)
class ChainStep:
    """What the draft says after a token.

    Attributes:
        logits: (Vd,) of the next token, over the words.
        state: (H,), the last hidden state after the final norm.
    """

    logits: torch.Tensor
    state: torch.Tensor


class ChainDraft:
    """A small model that drafts, in sessions of one sequence.

    Args:
        forward: the small model's, with the target's embedding and output rows.
        words: int64 (Vd,), the token ids behind the logits; None if they are all.
        folder: where it came from.
    """

    def __init__(self, forward: Forward, words: torch.Tensor | None, folder: Path | None = None) -> None:
        self.forward, self.words, self.folder = forward, words, folder
        self.taps = (int(forward.config.num_hidden_layers),)
        self.pool = CachePool(forward.open)

    @classmethod
    def load(cls, folder: str | Path, target: Target, tokenizer: Any = None) -> ChainDraft:
        """Reads a chain draft for a target that the CPU engine runs.

        Args:
            folder: of the draft.
            target: to draft for.
            tokenizer: the target's; None does not compare it with the one that the draft was made for.

        Raises:
            InputError: no chain draft in the folder, one for another target, or a target that the engine does not run.
        """
        files = read_chain(folder)
        fingerprint = None if tokenizer is None else tokenizer_fingerprint(tokenizer, target.vocab_size)
        check_chain(files, target.config, fingerprint)
        if not isinstance(target.forward, Engine):
            raise InputError("chains are drafted on the CPU engine; use a target that it runs, on the CPU")
        small = small_model(files, target.forward.output_rows(files.words))
        return cls(Engine(small, target.embedding), files.words, files.folder)

    @property
    def hidden_size(self) -> int:
        """Of its states."""
        return int(self.forward.config.hidden_size)

    def start(self, capacity: int) -> ChainSession:
        """A new sequence with room for so many tokens; to be used in a `with`."""
        return ChainSession(self, self.pool.take(1, capacity))


class ChainSession:
    """One sequence that a chain draft reads and continues, token by token."""

    def __init__(self, draft: ChainDraft, cache: KVCache) -> None:
        self.draft, self.cache = draft, cache

    def __enter__(self) -> ChainSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.draft.pool.give_back(self.cache)

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.cache.host_lengths[0]

    def rewind(self, length: int) -> None:
        """Keeps only the first `length` tokens."""
        self.cache.rewind([length])

    def read(self, tokens: list[int]) -> None:
        """Reads tokens that are already known; says nothing."""
        for first in range(0, len(tokens), READ_CHUNK):
            self._forward(tokens[first : first + READ_CHUNK])

    def step(self, tokens: list[int]) -> ChainStep:
        """Reads tokens, at least one, and says what comes after the last."""
        self.read(tokens[:-READ_CHUNK])
        logits, states = self._forward(tokens[-READ_CHUNK:])
        return ChainStep(logits[0, -1], self.draft.forward.norm(states[0, -1]))

    def _forward(self, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        draft, cache = self.draft, self.cache
        block = TreeBlock.chain(cache.lengths, len(tokens))
        read = draft.forward(torch.tensor([tokens]), block, cache, logits_to_keep=1, taps=draft.taps)
        cache.advance([len(tokens)])
        assert read.features is not None
        return read.logits, read.features


def small_model(files: ChainFiles, rows: torch.Tensor) -> PreTrainedModel:
    """The draft as a `transformers` model whose output layer holds only these rows; its token embedding stays empty."""
    config = copy.deepcopy(files.config)
    config.tie_word_embeddings, config.vocab_size = False, len(rows)
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=rows.dtype)
    rotary = type(model.model.rotary_emb)(config)
    model.model.layers.to_empty(device="cpu")
    model.model.norm.to_empty(device="cpu")
    model.model.rotary_emb = rotary
    model.model.embed_tokens = nn.Embedding(1, config.hidden_size, dtype=rows.dtype)
    model.lm_head.weight = nn.Parameter(rows, requires_grad=False)
    load_layers(model, files)
    return model.eval()  # type: ignore[no-any-return]
