"""The sampled text of chains has the target's distribution: against exact enumeration of all short sequences."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from chain_drafts import chain_decoder, save_draft, small_draft
from chain_numbers import ACCEPTANCE, number
from exact_sequences import NEW, PROMPT, enumerated, law_p_value, small_model, warpers
from torch import Tensor

from ltd import ops
from ltd.chains.length import MAX_LENGTH, LengthCall
from ltd.chains.noise_sampling import NoiseSampling
from ltd.chains.samplers import RESIDUAL, SAMPLERS
from ltd.chains.sampling import Chain
from ltd.decoding.acceptance import Sampling
from ltd.errors import InputError

SAMPLES = 1500
MORE = 2  # tokens drafted and drawn behind those that are looked at
TRIMMED = torch.tensor([5, 0, 3, 2])


class Picky:
    """Goes on only behind unlikely tokens, and drafts less after a rejection: lengths that depend on what was drawn."""

    max_length = 3

    def __init__(self) -> None:
        self.limit = 3

    def start(self) -> LengthCall:
        return Picky()

    def more(self, drafted: int, chance: float, state: Tensor) -> bool:
        return drafted < self.limit and chance < 0.5

    def verified(self, drafted: int, accepted: int) -> None:
        self.limit = 3 if accepted == drafted else 1


def p_value(
    folder: Path, words: Tensor | None, temperature: float, top_k: int, top_p: float, sampler: str = RESIDUAL
) -> float:
    """How likely so large a distance from the target's distribution is, for one text per seed."""
    model = small_model()
    expected = enumerated(model, warpers(temperature, top_k, top_p))
    torch.manual_seed(1)
    draft = small_draft(model, (0, 1), 1.0)
    decoder = chain_decoder(model, save_draft(draft, words, folder), Picky(), sampler)
    counts: Counter[tuple[int, ...]] = Counter()
    accepted = drafted = 0
    for seed in range(SAMPLES):
        answer = decoder.generate(
            PROMPT, max_new_tokens=NEW + MORE, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        counts[tuple(answer.token_ids[:NEW])] += 1
        accepted += sum(gain - 1 for gain in answer.statistics.gains)
        drafted += sum(answer.statistics.sizes)
    assert 0.2 < accepted / drafted < 0.95  # both must be common for the test to be about both
    return law_p_value(expected, counts)


@pytest.mark.parametrize(
    ("words", "temperature", "top_k", "top_p"),
    [(None, 1.0, 0, 1.0), (None, 0.7, 4, 0.9), (TRIMMED, 1.0, 0, 1.0), (TRIMMED, 1.2, 5, 0.9)],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sequences_have_the_targets_distribution(
    words: Tensor | None, temperature: float, top_k: int, top_p: float, sampler: str, tmp_path: Path
) -> None:
    # The seeds are fixed, so this is one draw, not a flaky test.
    assert p_value(tmp_path, words, temperature, top_k, top_p, sampler) > 1e-3


def test_a_residual_that_forgets_the_draft_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejected tokens replaced by tokens of p, not of max(p - q, 0): the same test says no."""
    accept, nothing = ops.accept_chain, torch.zeros(0, dtype=torch.int64)

    def faulty(logits: Tensor, draft: Tensor | None, words: Tensor | None, drafted: Tensor, *settings: float) -> Tensor:
        kept, token = accept(logits, draft, words, drafted, *settings).tolist()
        if kept < len(drafted):
            row = logits[kept : kept + 1]
            token = int(accept(row, None, words, nothing, *settings[:-1], settings[-1] + kept)[1])
        return torch.tensor([kept, token])

    monkeypatch.setattr(ops, "accept_chain", faulty)
    assert p_value(tmp_path, None, 1.0, 0, 1.0) < 1e-6


def test_a_coin_that_is_the_drafts_number_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft's tokens drawn with numbers that acceptance uses as well: the same test says no."""
    draw = ops.draft_token

    def dependent(logits: Tensor, temperature: float, top_k: int, top_p: float, *place: int) -> tuple[Tensor, Tensor]:
        _, chance = draw(logits, temperature, top_k, top_p, *place)
        probabilities = (logits[0] / temperature).softmax(-1).double()
        seed, cycle, position = place
        coin = number(seed, cycle, position, ACCEPTANCE)
        choice = torch.searchsorted(probabilities.cumsum(0), coin, right=True).clamp(max=len(probabilities) - 1)
        return choice, chance

    monkeypatch.setattr(ops, "draft_token", dependent)
    assert p_value(tmp_path, None, 1.0, 0, 1.0) < 1e-6


@pytest.mark.parametrize("words", [None, torch.randperm(50, generator=torch.Generator().manual_seed(0))])
@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.5, 0, 1.0), (1.5, 0, 1.0), (2.0, 9, 0.9)])
def test_with_noise_a_draft_that_knows_the_target_is_always_right(
    words: Tensor | None, temperature: float, top_k: int, top_p: float
) -> None:
    """In chains as long as they can be, whose noise all lies in memory at once, whatever order its words have."""
    sampling = Sampling(temperature, top_k, top_p, seed=4)
    sampler = NoiseSampling.start(sampling, words, 50, MAX_LENGTH)
    logits = 3 * torch.randn(2 * MAX_LENGTH + 2, 50, generator=torch.Generator().manual_seed(1))
    tokens = set()
    for cycle, position in enumerate((7, 7 + MAX_LENGTH + 1)):
        chain, rows = Chain(cycle, position), logits[cycle * (MAX_LENGTH + 1) :][: MAX_LENGTH + 1]
        for row in rows[:-1]:
            of_words = row if words is None else row[words]
            choice, chance = sampler.draft(chain, of_words)
            noise = ops.place_noise(4, 0, chain.position + len(chain), 50)
            values = of_words / temperature + (noise if words is None else noise[words])
            assert chance == pytest.approx(float(values.softmax(-1)[choice]))
            chain.add(choice, choice if words is None else int(words[choice]), of_words)
        assert sampler.accept(chain, rows)[0] == MAX_LENGTH
        tokens |= set(chain.tokens)
    assert len(tokens) > 5


@pytest.mark.parametrize(("top_k", "top_p", "walks"), [(0, 1.0, 0), (9, 0.9, 1)])
def test_with_noise_a_token_takes_one_look_at_the_vocabulary(
    top_k: int, top_p: float, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> None:
        operator = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *arguments: (calls.update([name]), operator(*arguments))[1])

    for name in ("expand_beam", "accept_sample", "place_noise"):
        counted(name)
    sampler = NoiseSampling.start(Sampling(1.0, top_k, top_p, seed=4), None, 50, 3)
    sampler.draft(Chain(0, 3), torch.randn(50, generator=torch.Generator().manual_seed(1)))
    assert calls == Counter(expand_beam=1, accept_sample=walks)


def test_with_noise_logits_that_are_not_finite_are_told() -> None:
    sampler = NoiseSampling.start(Sampling(1.0, seed=4), None, 5, 2)
    nothing, broken = Chain(0, 3), torch.full((1, 5), torch.nan)
    assert sampler.draft(nothing, broken[0])[0] == -1
    with pytest.raises(InputError, match="not finite"):
        sampler.accept(nothing, broken)
