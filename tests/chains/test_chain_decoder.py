"""Chains of a second model: the greedy text is the target's own whatever is drafted, and what the statistics say."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from chain_drafts import AtRandom, chain_decoder, save_draft, small_draft
from small_models import FAMILIES, VOCABULARY
from transformers import AutoModelForCausalLM, PreTrainedModel

from ltd.chains import Heuristic, Length, SpecDecPP
from ltd.chains.constant import Constant
from ltd.chains.decoder import ChainDecoder, ChainRequest
from ltd.chains.draft import ChainSession, ChainStep
from ltd.chains.samplers import NOISE
from ltd.chains.sampling import Chain
from ltd.decoding.decoder import Decoder
from ltd.decoding.statistics import PARTS, Stopwatch
from ltd.engine.cpu import Engine
from ltd.engine.kv_cache import KVCache
from ltd.errors import InputError
from ltd.policies.baselines.acceptance_head import AcceptanceHead

Folder = Callable[[str], Path]
WORDS = torch.arange(0, VOCABULARY, 3)
PROMPT = [1, 44, 20, 6, 71, 8, 33]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def wanted(model: PreTrainedModel, new: int, stop: int | None = None) -> list[int]:
    """Greedy text of `transformers` itself."""
    settings = {"do_sample": False, "max_new_tokens": new, "eos_token_id": stop, "pad_token_id": 2}
    return model.generate(torch.tensor([PROMPT]), **settings)[0, len(PROMPT) :].tolist()


@pytest.fixture
def decoder(tiny_target: Folder, tmp_path: Path) -> ChainDecoder:
    """Agrees with its target now and then."""
    model = load(tiny_target("llama"))
    torch.manual_seed(0)
    folder = save_draft(small_draft(model, tuple(range(8)), 0.1), None, tmp_path / "draft")
    return chain_decoder(model, folder, Constant(3))


@pytest.mark.parametrize(
    "length",
    [Constant(1), Constant(2), Constant(5), AtRandom(6)],
    ids=["1", "2", "5", "random"],
)
def test_the_greedy_text_is_the_targets(length: Length, decoder: ChainDecoder, tiny_target: Folder) -> None:
    answer = decoder.generate(PROMPT, max_new_tokens=60, stop_token_ids=(), length=length)
    assert answer.token_ids == wanted(load(tiny_target("llama")), 60)
    statistics = answer.statistics
    assert max(statistics.gains) > 1  # drafted tokens were accepted
    assert min(gain - size for gain, size in zip(statistics.gains, statistics.sizes, strict=True)) < 1  # and rejected
    assert max(statistics.sizes) == length.max_length


@pytest.mark.parametrize("words", [None, WORDS], ids=["all words", "some words"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_families(family: str, words: torch.Tensor | None, tiny_target: Folder, tmp_path: Path) -> None:
    model = load(tiny_target(family))
    folder = save_draft(small_draft(model, tuple(range(8)), 0.05), words, tmp_path / "draft")
    expected = wanted(model, 40)
    answer = chain_decoder(model, folder, Constant(4)).generate(torch.tensor([PROMPT]), max_new_tokens=40)
    assert answer.token_ids == expected
    assert answer.statistics.acceptance_length > 1


@pytest.mark.parametrize("words", [None, WORDS], ids=["all words", "some words"])
@pytest.mark.parametrize("length", [Constant(1), Constant(5), AtRandom(6)], ids=["1", "5", "random"])
def test_with_noise_a_seed_is_plain_decodings_text(
    length: Length, words: torch.Tensor | None, tiny_target: Folder, tmp_path: Path
) -> None:
    model = load(tiny_target("llama"))
    torch.manual_seed(0)
    folder = save_draft(small_draft(model, tuple(range(8)), 0.1), words, tmp_path / "draft")
    decoder = chain_decoder(model, folder, length, NOISE)
    options: dict[str, Any] = {"max_new_tokens": 60, "stop_token_ids": (), "temperature": 1.2, "top_k": 40}
    plain = Decoder(decoder.target)
    for seed in (3, 4):
        answer = decoder.generate(PROMPT, **options, seed=seed)
        assert answer.token_ids == plain.generate(PROMPT, **options, seed=seed).token_ids
        assert max(answer.statistics.gains) > 1
    greedy = {**options, "temperature": 0.0, "top_k": 0}
    assert decoder.generate(PROMPT, **greedy).token_ids == plain.generate(PROMPT, **greedy).token_ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_text_is_plain_decodings(tiny_target: Folder, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load(tiny_target("llama"), dtype)
    folder = save_draft(small_draft(model, tuple(range(8)), 0.1), None, tmp_path / "draft")
    decoder = chain_decoder(model, folder, Constant(4))
    plain = Decoder(decoder.target).generate(PROMPT, max_new_tokens=60)
    assert decoder.generate(PROMPT, max_new_tokens=60).token_ids == plain.token_ids


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_that_is_the_target_is_always_right(temperature: float, tiny_target: Folder, tmp_path: Path) -> None:
    model = load(tiny_target("llama"), torch.bfloat16)  # as the draft's files are
    folder = save_draft(small_draft(model, tuple(range(8)), 0.0), None, tmp_path / "draft")
    decoder = chain_decoder(model, folder, Constant(4))
    top_p = 0.9 if temperature else 1.0
    answer = decoder.generate(PROMPT, max_new_tokens=51, temperature=temperature, top_p=top_p, seed=3)
    assert answer.statistics.gains == [5] * 10
    assert answer.statistics.sizes == [4] * 10


def test_statistics_add_up(decoder: ChainDecoder) -> None:
    rule = AtRandom(5)
    news = list(decoder.stream(PROMPT, max_new_tokens=50, stop_token_ids=(), length=rule))
    statistics = decoder.last_statistics
    assert len(news[0]) == 1
    assert [len(new) for new in news[1:]] == statistics.gains
    assert statistics.new_tokens == sum(map(len, news)) == 50
    assert statistics.prompt_tokens == len(PROMPT)
    assert statistics.depths == [max(size - 1, 0) for size in statistics.sizes]
    assert all(1 <= gain <= size + 1 for gain, size in zip(statistics.gains, statistics.sizes, strict=True))
    drafting = [size for size in statistics.sizes if size > 0]
    assert [drafted for drafted, _ in rule.told] == drafting
    assert [kept + 1 for _, kept in rule.told] == statistics.gains[: len(rule.told)]
    assert set(statistics.seconds) == set(PARTS)
    for part in ("prefill", "draft", "policy", "verify", "accept", "commit", "other"):
        assert statistics.seconds[part] > 0, part


def test_what_rules_are_asked(decoder: ChainDecoder) -> None:
    """After each token but the longest chain's last, with its chance and the state that it was proposed from."""
    rule = AtRandom(4, seed=1)
    answer = decoder.generate(PROMPT, max_new_tokens=30, stop_token_ids=(), length=rule)
    asked = iter(rule.asked)
    for size, left in zip(answer.statistics.sizes, remaining(answer.statistics.gains, 30), strict=True):
        most = min(4, left - 1)
        questions = [next(asked) for _ in range(min(size, most - 1) if size else 0)]
        assert [drafted for drafted, _, _ in questions] == list(range(1, len(questions) + 1))
        assert all(0 < chance <= 1 for _, chance, _ in questions)
    assert next(asked, None) is None
    first = rule.asked[0]
    with torch.inference_mode():
        draft = decoder.draft.start(20)
        step = draft.step([*PROMPT, answer.token_ids[0]])
        chance, token = step.logits.softmax(-1).max(0)
        assert first[1] == pytest.approx(float(chance), rel=1e-5)
        assert torch.equal(first[2], step.state)
        second = rule.asked[1]
        assert second[0] == 2  # so that it is of the same cycle
        assert torch.equal(second[2], draft.step([int(token)]).state)


RULES: dict[str, Callable[[int], Length]] = {
    "1": lambda _: Constant(1),
    "4": lambda _: Constant(4),
    "heuristic": lambda _: Heuristic(3),
    "random": lambda _: AtRandom(6),
    "specdecpp": lambda states: SpecDecPP(AcceptanceHead(states), threshold=0.9, least=2, most=7),
}


@pytest.mark.parametrize("name", RULES)
def test_a_chain_of_n_tokens_costs_n_forwards(
    name: str, decoder: ChainDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, steps, step = RULES[name](decoder.draft.hidden_size), [], ChainSession.step

    def counted(session: ChainSession, tokens: list[int]) -> ChainStep:
        steps.append(len(tokens))
        return step(session, tokens)

    monkeypatch.setattr(ChainSession, "step", counted)
    answer = decoder.generate(PROMPT, max_new_tokens=60, stop_token_ids=(), length=rule)
    assert len(steps) == sum(answer.statistics.sizes)
    assert max(answer.statistics.gains) > 1


@pytest.mark.parametrize("threshold", [0.7, 0.9, 0.97])
def test_specdecpp_sends_the_token_after_the_last_one_judged(
    threshold: float, decoder: ChainDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every chain's length recomputed from its text, which another session of the draft reads token by token."""
    chains: list[tuple[list[int], Chain, int]] = []
    draft_chain = ChainDecoder._draft_chain

    def seen(self: ChainDecoder, request: ChainRequest, watch: Stopwatch) -> Chain:
        before, room = [*request.prompt, *request.answer], request.room
        chains.append((before, draft_chain(self, request, watch), room))
        return chains[-1][1]

    monkeypatch.setattr(ChainDecoder, "_draft_chain", seen)
    torch.manual_seed(1)
    head = AcceptanceHead(decoder.draft.hidden_size)
    rule = SpecDecPP(head, threshold, least=2, most=8)
    decoder.generate(PROMPT, max_new_tokens=60, stop_token_ids=(), length=rule)
    for before, chain, room in chains:
        with torch.inference_mode(), decoder.draft.start(200) as session:
            session.read(before)
            states = [session.step([token]).state for token in chain.tokens]
        accepted = head.chance(torch.stack(states)).double().cumprod(0).tolist() if states else []
        stops = [count for count in range(2, len(chain) + 1) if 1 - accepted[count - 2] > threshold]
        expected = stops[0] if stops else min(8, room)
        assert len(chain) == max(expected, 0)
    assert any(len(chain) > 2 for _, chain, _ in chains)


def remaining(gains: list[int], new: int) -> list[int]:
    """Before each cycle, how many tokens the answer may still get."""
    return [new - 1 - sum(gains[:cycle]) for cycle in range(len(gains))]


def test_nothing_is_drafted_beyond_the_end(decoder: ChainDecoder, tiny_target: Folder) -> None:
    expected = wanted(load(tiny_target("llama")), 12)
    for new in range(1, 12):
        answer = decoder.generate(PROMPT, max_new_tokens=new, stop_token_ids=())
        assert answer.token_ids == expected[:new]
        left = remaining(answer.statistics.gains, new)
        assert all(size == min(3, most - 1) for size, most in zip(answer.statistics.sizes, left, strict=True))


def test_the_context_ends_an_answer(decoder: ChainDecoder, tiny_target: Folder) -> None:
    prompt = torch.randint(VOCABULARY, (250,)).tolist()
    assert len(decoder.generate(prompt, stop_token_ids=()).token_ids) == 6
    short = ChainDecoder(decoder.target, decoder.draft, Constant(8), max_length=len(PROMPT) + 5)
    assert short.generate(PROMPT, stop_token_ids=()).token_ids == wanted(load(tiny_target("llama")), 5)


def test_stop_tokens_end_an_answer(decoder: ChainDecoder, tiny_target: Folder) -> None:
    stop = wanted(load(tiny_target("llama")), 20)[9]
    expected = wanted(load(tiny_target("llama")), 40, stop)
    for length in range(1, 9):
        answer = decoder.generate(PROMPT, max_new_tokens=40, stop_token_ids=[stop], length=Constant(length))
        assert answer.token_ids == expected
    decoder.stop_ids = (stop,)
    assert decoder.generate(PROMPT, max_new_tokens=40).token_ids == expected


def test_a_seed_gives_one_text(decoder: ChainDecoder) -> None:
    texts = [
        decoder.generate(PROMPT, max_new_tokens=30, temperature=1.0, seed=seed, stop_token_ids=()).token_ids
        for seed in (7, 8, 7)
    ]
    assert texts[0] == texts[2] != texts[1]
    free = [decoder.generate(PROMPT, max_new_tokens=30, temperature=1.0, stop_token_ids=()).token_ids for _ in range(2)]
    assert free[0] != free[1]


def test_a_broken_draft_costs_nothing_but_speed(decoder: ChainDecoder, tiny_target: Folder) -> None:
    decoder.draft.forward.weights.final_norm.fill_(float("nan"))
    answer = decoder.generate(PROMPT, max_new_tokens=20, stop_token_ids=())
    assert answer.token_ids == wanted(load(tiny_target("llama")), 20)
    assert set(answer.statistics.sizes) == {0}
    sampled = decoder.generate(PROMPT, max_new_tokens=20, stop_token_ids=(), temperature=1.0, seed=1)
    assert len(sampled.token_ids) == 20


def test_texts_that_are_too_long_for_the_memory_are_refused(decoder: ChainDecoder) -> None:
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1024000262144 bytes")
    with (
        patch.object(KVCache, "for_model", side_effect=error),
        pytest.raises(InputError, match=r"too little memory for 1 sequence of up to \d+ tokens.*ask for fewer"),
    ):
        decoder.generate(PROMPT, max_new_tokens=20)
    assert len(decoder.generate(PROMPT, max_new_tokens=20, stop_token_ids=[]).token_ids) == 20


def test_a_broken_target_is_named(decoder: ChainDecoder) -> None:
    assert isinstance(decoder.target.forward, Engine)
    decoder.target.forward.weights.final_norm.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="the target's logits are not finite"):
            decoder.generate(PROMPT, temperature=temperature)


def test_a_decoder_beside_another(decoder: ChainDecoder, tiny_target: Folder) -> None:
    plain = Decoder(decoder.target, stop_ids=(5,), max_length=99)
    folder = decoder.draft.folder
    assert folder is not None
    beside = ChainDecoder.beside(plain, folder, Constant(2))
    assert (beside.target, beside.stop_ids, beside.max_length) == (plain.target, (5,), 99)
    assert beside.generate(PROMPT, max_new_tokens=9, stop_token_ids=()).token_ids == wanted(
        load(tiny_target("llama")), 9
    )
    options: dict[str, Any] = {"max_new_tokens": 40, "stop_token_ids": (), "temperature": 1.2, "seed": 3}
    noisy = ChainDecoder.beside(plain, folder, Constant(2), sampler=NOISE)
    expected = plain.generate(PROMPT, **options).token_ids
    assert noisy.generate(PROMPT, **options).token_ids == expected
    assert beside.generate(PROMPT, **options).token_ids != expected  # which draws in another way
    with pytest.raises(InputError, match="no sampler 'coin' of chains"):
        ChainDecoder.beside(plain, "nowhere", Constant(2), sampler="coin")


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.9}])
def test_what_changes_nothing_greedily_is_told(options: dict[str, Any], decoder: ChainDecoder) -> None:
    trees = Decoder(decoder.target)
    for each in (decoder, trees):
        with pytest.warns(UserWarning, match="top_k and top_p change nothing at temperature 0") as caught:
            told = each.generate(PROMPT, max_new_tokens=5, **options).token_ids
        with pytest.warns(UserWarning, match="top_k and top_p change nothing at temperature 0") as streamed:
            stream = each.stream(PROMPT, max_new_tokens=5, **options)
        assert [token for news in stream for token in news] == told
        assert [warning.filename for warning in (*caught, *streamed)] == [__file__] * 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert each.generate(PROMPT, max_new_tokens=5, seed=4, top_k=0, top_p=1.0).token_ids == told
            each.generate(PROMPT, max_new_tokens=5, temperature=1.0, **options)


class TooLong(AtRandom):
    def __init__(self) -> None:
        super().__init__(33, False)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([[1, 2], [3, 4]], {}, "one prompt at a time, not 2"),
        ([], {}, "prompt is empty"),
        ([VOCABULARY], {}, "not in the target's vocabulary"),
        ([1] * 256, {}, "shorten it"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([1], {"temperature": -1.0}, "temperature -1.0"),
        ([1], {"length": TooLong()}, "chains of 33 tokens are out of range"),
        (5, {}, "not int"),
        ([1], {"max_new_tokens": "8"}, "max_new_tokens is '8', but must be a whole number"),
        ([1], {"max_new_tokens": True}, "max_new_tokens is True, but must be a whole number"),
        ([1], {"temperature": "hot"}, "temperature is 'hot', but must be a number"),
        ([1], {"top_k": 2.5}, "top_k is 2.5, but must be a whole number"),
        ([1], {"seed": 1.5}, "seed is 1.5, but must be a whole number"),
        ([1], {"stop_token_ids": "ab"}, "stop_token_ids is 'ab', but must be a list of whole numbers"),
        ([1], {"length": 5}, "length is 5, but must be a rule such as"),
        ([1], {"length": "heuristic"}, "length is 'heuristic', but must be a rule such as"),
        ([1], {"length": Constant}, "length is <class .*, but must be a rule such as"),
    ],
)
def test_bad_input_is_named_at_once(
    prompt: object, settings: dict[str, object], message: str, decoder: ChainDecoder
) -> None:
    with pytest.raises(InputError, match=message):
        decoder.stream(prompt, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_length 300"):
        ChainDecoder(decoder.target, decoder.draft, Constant(1), max_length=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "gpt2"}, "target is 'gpt2', but must be a Target; ltd.load"),
        ({"length": 5}, "length is 5, but must be a rule such as"),
        ({"stop_ids": 2}, "stop_ids is 2, but must be a list of whole numbers"),
        ({"max_length": 20.5}, "max_length is 20.5, but must be a whole number"),
        ({"sampler": "coin"}, "no sampler 'coin' of chains; there are residual, noise"),
    ],
)
def test_a_decoder_of_wrong_parts(arguments: dict[str, Any], message: str, decoder: ChainDecoder) -> None:
    parts: dict[str, Any] = {"target": decoder.target, "draft": decoder.draft, "length": Constant(2)}
    with pytest.raises(InputError, match=message):
        ChainDecoder(**{**parts, **arguments})
    with pytest.raises(InputError, match="folder of a chain draft is 5, but must be a text or a Path"):
        ChainDecoder.beside(Decoder(decoder.target), 5, Constant(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [2.5, "3", None, True])
def test_lengths_of_the_wrong_type(wrong: Any) -> None:
    for make in (lambda: Constant(wrong), lambda: Heuristic(wrong), lambda: Heuristic(1, wrong)):
        with pytest.raises(InputError, match=f"(length|most) is {wrong!r}, but must be a whole number"):
            make()


def test_answers_of_a_rule_that_are_none(decoder: ChainDecoder) -> None:
    class Undecided(AtRandom):
        def more(self, drafted: int, chance: float, state: torch.Tensor) -> Any:
            return None

    with pytest.raises(InputError, match=r"what Undecided\.more answers is None, but must be True or False"):
        decoder.generate(PROMPT, max_new_tokens=9, stop_token_ids=(), length=Undecided(3))
    assert len(decoder.generate(PROMPT, max_new_tokens=9, stop_token_ids=()).token_ids) == 9  # nothing is left behind


def test_statistics_are_of_the_stream_that_was_read_last(decoder: ChainDecoder) -> None:
    prompts, told = [PROMPT, PROMPT[:3]], [0, 0]
    streams = [decoder.stream(prompt, max_new_tokens=40, stop_token_ids=()) for prompt in prompts]
    for turn in (0, 1, 0, 0, 1, 0, 1):
        told[turn] += len(next(streams[turn]))
        statistics = decoder.last_statistics
        assert (statistics.prompt_tokens, statistics.new_tokens) == (len(prompts[turn]), told[turn])
