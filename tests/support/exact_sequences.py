"""The exact distribution of all short sequences of a small model."""

from __future__ import annotations

import itertools

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
)

WORDS, NEW = 6, 3
PROMPT = [1, 4, 2]


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.8,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()


def enumerated(model: LlamaForCausalLM, warpers: LogitsProcessorList) -> dict[tuple[int, ...], float]:
    """The exact probability of every sequence of NEW tokens, with `transformers`' own warpers."""
    sequences = list(itertools.product(range(WORDS), repeat=NEW))
    ids = torch.tensor([PROMPT + list(sequence) for sequence in sequences])
    with torch.no_grad():
        logits = model(ids).logits[:, len(PROMPT) - 1 : -1].float()
    probabilities = torch.ones(len(sequences), dtype=torch.float64)
    for step in range(NEW):
        warped = warpers(ids[:, : len(PROMPT) + step], logits[:, step]).softmax(-1)
        probabilities *= warped.gather(1, ids[:, len(PROMPT) + step, None])[:, 0]
    return dict(zip(sequences, probabilities.tolist(), strict=True))
