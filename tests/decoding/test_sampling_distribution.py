"""The sampled text has the target's distribution: tested against exact enumeration of all short sequences."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
from exact_sequences import NEW, PROMPT, enumerated, small_model
from oracle_draft import OracleDraft
from scipy.stats import chisquare
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ltd.decoding.decoder import Decoder
from ltd.policies import Static
from ltd.target.target import Target


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.3, 4, 1.0), (1.0, 0, 0.8), (1.2, 5, 0.9)]
)
def test_sequences_have_the_targets_distribution(temperature: float, top_k: int, top_p: float) -> None:
    model, samples, batch = small_model(), 6000, 500
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    expected = enumerated(model, warpers)
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-4)

    prompts = [PROMPT] * batch
    decoder = Decoder(Target(model), OracleDraft(copy.deepcopy(model), noise=1.0, width=3), Static(depth=1, size=6))
    counts: Counter[tuple[int, ...]] = Counter()
    accepted = 0
    for seed in range(samples // batch):
        answers = decoder.generate(
            prompts, max_new_tokens=NEW, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        counts.update(tuple(answer.token_ids) for answer in answers)
        accepted += sum(gain - 1 for gain in decoder.last_statistics.gains)
    assert accepted > samples / 4  # the test is about accepted drafts, so there must be many
    assert all(expected[sequence] > 0 for sequence in counts)

    likely = [sequence for sequence, p in expected.items() if p * samples >= 5]
    observed = [counts[sequence] for sequence in likely] + [samples - sum(counts[s] for s in likely)]
    wanted = [expected[sequence] * samples for sequence in likely]
    wanted.append(samples - sum(wanted))
    if wanted[-1] < 1:  # no rest to speak of
        observed, wanted = observed[:-1], wanted[:-1]
        wanted = [w * sum(observed) / sum(wanted) for w in wanted]
    # The seeds are fixed, so this is one draw, not a flaky test; a wrong rule gives p-values of 1e-20.
    assert chisquare(observed, wanted).pvalue > 1e-3
