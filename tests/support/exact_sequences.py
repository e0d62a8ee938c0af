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
    probabilities = {}
    with torch.no_grad():
        for sequence in itertools.product(range(WORDS), repeat=NEW):
            ids = torch.tensor([PROMPT + list(sequence)])
            logits = model(ids).logits[0, len(PROMPT) - 1 : -1].float()
            steps = [
                warpers(ids[:, : len(PROMPT) + step], logits[step][None]).softmax(-1)[0, token].item()
                for step, token in enumerate(sequence)
            ]
            probabilities[sequence] = steps[0] * steps[1] * steps[2]
    return probabilities
