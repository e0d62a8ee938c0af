"""The exact distribution of all short sequences of a small model, and whether samples have it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.stats import chisquare
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ltd.decoding.decoder import Decoder

WORDS, NEW = 6, 3
PROMPT = [1, 4, 2]
Sample = Callable[[int], list[list[int]]]


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


def warpers(temperature: float, top_k: int = 0, top_p: float = 1.0) -> LogitsProcessorList:
    """In the order of `transformers`."""
    made = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        made.append(TopPLogitsWarper(top_p))
    return made


def sampler(decoder: Decoder, gains: list[int], copies: int, **options: Any) -> Sample:
    """Answers of so many copies of the prompt; what their cycles gain is added to a list."""

    def sample(seed: int) -> list[list[int]]:
        answers: Any = decoder.generate([PROMPT] * copies, max_new_tokens=NEW, seed=seed, **options)
        gains.extend(decoder.last_statistics.gains)
        return [answer.token_ids for answer in answers]

    return sample


def law_p_value(expected: Mapping[tuple[int, ...], float], counts: Counter[tuple[int, ...]]) -> float:
    """How likely so large a distance of samples from the probabilities of all sequences is."""
    assert all(expected[sequence] > 0 for sequence in counts)
    samples = counts.total()
    likely = [sequence for sequence, p in expected.items() if p * samples >= 5]
    observed = [counts[sequence] for sequence in likely] + [samples - sum(counts[s] for s in likely)]
    wanted = [expected[sequence] * samples for sequence in likely]
    wanted.append(samples - sum(wanted))
    if wanted[-1] < 1:  # no rest to speak of
        observed, wanted = observed[:-1], wanted[:-1]
        wanted = [w * sum(observed) / sum(wanted) for w in wanted]
    return float(chisquare(observed, wanted).pvalue)


def check_law(expected: Mapping[tuple[int, ...], float], sample: Sample, seeds: int) -> None:
    """Compares with the probabilities of all sequences what comes of copies of the prompt and so many seeds."""
    assert abs(sum(expected.values()) - 1.0) < 1e-4
    counts = Counter(tuple(tokens) for seed in range(seeds) for tokens in sample(seed))
    # The seeds are fixed, so this is one draw, not a flaky test; a wrong rule gives p-values of 1e-20.
    assert law_p_value(expected, counts) > 1e-3
