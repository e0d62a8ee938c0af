"""Requests that begin like earlier texts: the same text as without reuse, and what is kept is what reading gives."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from engine_models import random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_draft import OracleDraft
from small_models import small_config
from test_recorded_cycles import POLICIES, Sometimes, make_decoder, taped

import ltd
from ltd.cli.generate import describe
from ltd.decoding import reuse
from ltd.decoding.decoder import Decoder
from ltd.decoding.statistics import Statistics
from ltd.drafts.eagle3.draft import Eagle3Session
from ltd.engine.cpu import Engine
from ltd.engine.kv_cache import KVCache
from ltd.policies import Policy, Static
from ltd.target import target as target_module
from ltd.target.target import Target
from ltd.target.transformers_layers import TransformersLayers

CHUNK = 16
SETUPS = {
    "engine": ("engine", torch.float32),
    "engine, bfloat16": ("engine", torch.bfloat16),
    "engine, float16": ("engine", torch.float16),
    "layers": ("layers", torch.float32),
    "device": ("device", torch.float32),
}
BORDER = 40  # tokens beyond which positions change
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 4 + [2.0] * 4}
OF_TEXT: dict[str, dict[str, Any]] = {
    "longrope": {"factor": 4.0, "original_max_position_embeddings": BORDER, **FACTORS},
    "dynamic": {"factor": 4.0},
}
ROW_EXACT = ("engine", "engine, bfloat16", "engine, float16")
EVERY_POLICY: list[Policy | str] = [*POLICIES, Sometimes(), "none"]
SETTINGS = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short prompts have several."""
    monkeypatch.setattr(target_module, "PREFILL_CHUNK", CHUNK)
    monkeypatch.setattr(reuse, "PREFILL_CHUNK", CHUNK)


@pytest.fixture(scope="module", params=SETUPS)
def decoders(request: pytest.FixtureRequest) -> tuple[str, Decoder, Decoder]:
    """The setup's name, and twice the same decoder: one that reads every prompt as a whole, one that reuses."""
    kind, dtype = SETUPS[request.param]
    return request.param, make_decoder(kind, dtype=dtype), make_decoder(kind, dtype=dtype, reuse_mib=4)


@pytest.fixture
def fresh(decoders: tuple[str, Decoder, Decoder]) -> tuple[str, Decoder, Decoder]:
    """The same, with nothing kept."""
    decoders[2].target.texts.clear()
    return decoders


def words(seed: int, count: int, low: int = 3, high: int = 9) -> list[int]:
    """Few different tokens, so that texts have much in common, and the text proposes some."""
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_kept_rows(decoder: Decoder) -> None:
    """Every text that is kept has, bit for bit, the rows that reading it gives; the draft's too on the CPU's engine."""
    target = decoder.target
    for text in target.texts._texts:
        count, tokens, drafted = len(text.rows), torch.from_numpy(text.tokens), cast(Any, text.drafted)
        assert 0 < count <= len(tokens) <= count + 1
        with torch.inference_mode(), target.session(1, 512) as session:
            features = session.prefill(0, tokens).features
            read = session.cache.copy_rows(0, count)
            assert torch.equal(text.rows.keys, read.keys) and torch.equal(text.rows.values, read.values)
            if drafted is None:
                continue
            slots, drafting = len(drafted.rows), cast(Any, text.draft).start(1, 512)
            assert slots < len(tokens)
            drafting.read_prompt(0, features, tokens)
            read = drafting.copy_read(0, slots + 1).rows
            drafting.close()
        exact = {"rtol": 0.0, "atol": 0.0} if isinstance(target.forward, Engine) else {}
        torch.testing.assert_close(drafted.rows.keys, read.keys, **exact)
        torch.testing.assert_close(drafted.rows.values, read.values, **exact)


@dataclass(frozen=True)
class Step:
    """How a prompt comes out of an earlier text: so many of its first tokens, of 100, and some new ones."""

    text: int
    share: int
    new: int
    seed: int
    policy: Policy | str
    temperature: float

    def prompt(self, texts: list[list[int]]) -> list[int]:
        base = texts[self.text % len(texts)] if texts else []
        kept = base[: len(base) * self.share // 100][:150]
        return [*kept, *words(self.seed, self.new)] or [5]


steps = st.lists(
    st.builds(
        Step,
        text=st.integers(0, 3),
        share=st.sampled_from([0, 30, 70, 100, 100]),
        new=st.sampled_from([0, 1, 5, 40]),
        seed=st.integers(0, 5),
        policy=st.sampled_from(EVERY_POLICY),
        temperature=st.sampled_from([0.0, 0.0, 0.9]),
    ),
    min_size=2,
    max_size=6,
)


@SETTINGS
@given(steps=steps)
def test_texts_are_those_without_reuse(decoders: tuple[str, Decoder, Decoder], steps: list[Step]) -> None:
    """Turns of chats, other questions, shorter, equal and unrelated prompts, in any order and by any policy."""
    name, plain, reusing = decoders
    reusing.target.texts.clear()
    texts: list[list[int]] = []
    for step in steps:
        prompt = step.prompt(texts)
        options: dict[str, Any] = {"max_new_tokens": 20, "policy": step.policy}
        options |= {"temperature": step.temperature, "seed": step.seed}
        expected, answer = plain.generate(prompt, **options), reusing.generate(prompt, **options)
        assert answer.token_ids == expected.token_ids
        one, other = answer.statistics, expected.statistics
        if name in ROW_EXACT:  # the draft's rows are the same too, and so is all that it proposes
            assert (one.gains, one.depths, one.sizes) == (other.gains, other.depths, other.sizes)
        assert one.prompt_tokens == len(prompt) and other.reused_tokens == 0
        most = max((common(prompt, text) - 1 for text in texts), default=0)
        assert 0 <= one.reused_tokens <= max(most, 0) and one.reused_tokens < len(prompt)
        if name not in ROW_EXACT:
            assert one.reused_tokens % CHUNK == 0
        texts.append([*prompt, *answer.token_ids])
    check_kept_rows(reusing)


def test_a_chat_reads_only_what_is_new(fresh: tuple[str, Decoder, Decoder]) -> None:
    """Plainly, every row of the text so far but the last is taken over; elsewhere the whole chunks of its prompt."""
    name, plain, reusing = fresh
    text: list[int] = words(1, 40)
    earlier = 0
    for turn in range(3):
        answer = reusing.generate(text, max_new_tokens=15, policy="none")
        assert answer.token_ids == plain.generate(text, max_new_tokens=15, policy="none").token_ids
        reused = answer.statistics.reused_tokens
        if turn == 0:
            assert reused == 0
        elif name in ROW_EXACT:
            assert reused == earlier - 1
        else:
            assert reused == (earlier - 15) // CHUNK * CHUNK
        text = [*text, *answer.token_ids]
        earlier = len(text)
        text += words(turn + 2, 9)
    assert len(reusing.target.texts) == 1  # each goes on where the one before ended


def test_a_draft_goes_on_too(fresh: tuple[str, Decoder, Decoder]) -> None:
    """What the draft had not read when the answer ended is read again, and no more."""
    name, plain, reusing = fresh
    first = reusing.generate(words(1, 70), max_new_tokens=15)
    prompt = [*words(1, 70), *first.token_ids, *words(2, 5)]
    read_prompt, counts = Eagle3Session.read_prompt, []

    def counted(session: Eagle3Session, row: int, features: torch.Tensor | None, tokens: torch.Tensor) -> None:
        counts.append(len(tokens))
        read_prompt(session, row, features, tokens)

    with patch.object(Eagle3Session, "read_prompt", counted):
        answer = reusing.generate(prompt, max_new_tokens=15)
    assert answer.token_ids == plain.generate(prompt, max_new_tokens=15).token_ids
    reused = answer.statistics.reused_tokens
    assert counts == [len(prompt) - reused]
    assert reused >= 80 if name in ROW_EXACT else reused == 70 // CHUNK * CHUNK


def test_other_questions_about_one_document(fresh: tuple[str, Decoder, Decoder]) -> None:
    name, plain, reusing = fresh
    document = words(3, 100)
    for number in range(4):
        prompt = [*document, 20 + number, *words(number, 6)]
        answer = reusing.generate(prompt, max_new_tokens=12)
        assert answer.token_ids == plain.generate(prompt, max_new_tokens=12).token_ids
        expected = 99 if name in ROW_EXACT else 99 // CHUNK * CHUNK
        assert answer.statistics.reused_tokens == (expected if number else 0)
    assert len(reusing.target.texts) == (4 if name in ROW_EXACT else 1)  # their whole chunks are the document's
    # The first is still there.
    again = reusing.generate([*document, 20, *words(0, 6)], max_new_tokens=12)
    assert again.statistics.reused_tokens == (106 if name in ROW_EXACT else 96)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_of_a_batch_reuse_each_their_own(fresh: tuple[str, Decoder, Decoder], temperature: float) -> None:
    name, plain, reusing = fresh
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": temperature, "seed": 3, "stop_token_ids": [4, 40]}
    prompts = [words(number, length) for number, length in enumerate((50, 33, 1, 80))]
    for _ in range(3):
        expected, answers = plain.generate(prompts, **options), reusing.generate(prompts, **options)
        assert [each.token_ids for each in answers] == [each.token_ids for each in expected]
        check_kept_rows(reusing)
        # Not in the same order, so in other places of the batch.
        prompts = [[*prompt, *each.token_ids, 7] for prompt, each in zip(prompts, answers, strict=True)][::-1]
    least = sum(length - 1 if name in ROW_EXACT else (length - 1) // CHUNK * CHUNK for length in (50, 33, 1, 80))
    assert answers[0].statistics.reused_tokens >= least


def test_streams_in_turns_share_nothing_but_what_has_ended(fresh: tuple[str, Decoder, Decoder]) -> None:
    _, plain, reusing = fresh
    start = words(5, 60)
    prompts = [[*start, number] for number in (10, 11, 12)]
    expected = [plain.generate(prompt, max_new_tokens=20).token_ids for prompt in prompts]
    reusing.generate(start, max_new_tokens=4)
    streams = [reusing.stream(prompt, max_new_tokens=20) for prompt in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    while going:
        for number in sorted(going):
            news = next(streams[number], None)
            if news is None:
                going.remove(number)
            else:
                found[number] += news
    assert found == expected
    check_kept_rows(reusing)


def test_threads_share_what_is_kept(fresh: tuple[str, Decoder, Decoder]) -> None:
    _, plain, reusing = fresh
    prompts = [[*words(5, 60), number % 3, *words(number, 4)] for number in range(6)]
    expected = [plain.generate(prompt, max_new_tokens=10).token_ids for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            answers = list(pool.map(lambda prompt: reusing.generate(prompt, max_new_tokens=10), prompts))
            assert [answer.token_ids for answer in answers] == expected
    check_kept_rows(reusing)


@pytest.mark.parametrize("cycles", [1, 2, 5])
@pytest.mark.parametrize("ending", ["closed", "forgotten"])
def test_a_stream_that_is_not_read_to_its_end_leaves_what_it_read(
    fresh: tuple[str, Decoder, Decoder], cycles: int, ending: str
) -> None:
    name, plain, reusing = fresh
    prompt = words(6, 50)
    stream: Iterator[list[int]] | None = reusing.stream(prompt, max_new_tokens=60)
    assert stream is not None
    text = [*prompt, *(token for _ in range(cycles) for token in next(stream))]
    if ending == "closed":
        stream.close()  # type: ignore[attr-defined]
    stream = None
    gc.collect()
    assert len(reusing.target.texts) == 1
    check_kept_rows(reusing)
    expected = plain.generate([*text, 8], max_new_tokens=10)
    answer = reusing.generate([*text, 8], max_new_tokens=10)
    assert answer.token_ids == expected.token_ids
    reused = answer.statistics.reused_tokens
    assert 49 <= reused < len(text) if name in ROW_EXACT else reused == 48


def test_an_error_leaves_nothing() -> None:
    class Broken(Sometimes):
        def speculate(self, lengths: torch.Tensor, gained: list[int]) -> bool:
            raise RuntimeError("broken")

    decoder = make_decoder("engine", reuse_mib=4)
    with pytest.raises(RuntimeError, match="broken"):
        decoder.generate(words(1, 40), policy=Broken())
    assert len(decoder.target.texts) == 0


@pytest.mark.parametrize("policy", [Static(3, 12), "none"], ids=str)
def test_kept_texts_take_no_more_memory_than_they_may(policy: Any) -> None:
    """Of a text that is longer, its beginning is kept; of several, those that were of use last."""
    plain, decoder = make_decoder("engine"), make_decoder("engine", reuse_mib=1)
    texts, row = decoder.target.texts, decoder.target.forward.open(1, 1).row_bytes
    with patch.object(reuse.Reuse, "__init__", limited(120 * row)):
        for number in range(5):
            prompt = [10 + number, *words(number, 30)]
            answer = decoder.generate(prompt, max_new_tokens=10, policy=policy)
            assert answer.token_ids == plain.generate(prompt, max_new_tokens=10, policy=policy).token_ids
            assert 0 < texts.nbytes <= 120 * row
        assert len(texts) == 2 and [text.tokens[0] for text in texts._texts] == [13, 14]
        decoder.generate([13, *words(3, 30), 9], max_new_tokens=3, policy=policy)
        decoder.generate([15, *words(7, 30)], max_new_tokens=10, policy=policy)
        assert {text.tokens[0] for text in texts._texts} == {13, 15}
        long = words(9, 200)
        decoder.generate(long, max_new_tokens=10, policy=policy)
        assert len(texts) == 1 and 80 < len(texts._texts[0].rows) < 120 and texts.nbytes <= 120 * row
        check_kept_rows(decoder)
        again = decoder.generate(long, max_new_tokens=10, policy=policy)
    assert again.token_ids == plain.generate(long, max_new_tokens=10, policy=policy).token_ids
    assert again.statistics.reused_tokens == len(texts._texts[0].tokens) - 1


def limited(limit: int) -> Any:
    """In place of `Reuse.__init__`: with so many bytes, as no test fills a MiB."""
    begin = reuse.Reuse.__init__

    def begun(self: reuse.Reuse, target: Target, request: Any, given: int) -> None:
        begin(self, target, request, limit if given else 0)

    return begun


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    decoder = make_decoder("engine")
    for _ in range(2):
        assert decoder.generate(words(1, 40), max_new_tokens=4).statistics.reused_tokens == 0
    assert len(decoder.target.texts) == 0 and not decoder.target.texts.clear()
    decoder.reuse_mib = 1
    decoder.generate(words(1, 40), max_new_tokens=4)
    assert decoder.generate(words(1, 40), max_new_tokens=4).statistics.reused_tokens == 39
    decoder.reuse_mib = 0
    assert decoder.generate(words(1, 40), max_new_tokens=4).statistics.reused_tokens == 0
    assert decoder.target.spare() and len(decoder.target.texts) == 0


@pytest.mark.parametrize("wrong", [-1, 1.5, "much", None, True])
def test_amounts_that_are_none_are_refused(wrong: Any) -> None:
    for take in (
        lambda: make_decoder("layers", reuse_mib=wrong),
        lambda: ltd.load("no such model", reuse_mib=wrong),
        lambda: ltd.CustomGenerate("none", reuse_mib=wrong),
    ):
        with pytest.raises(ltd.InputError, match="reuse_mib is"):
            take()


def test_what_one_draft_read_is_of_no_use_to_another() -> None:
    """Plain decoding needs no draft's rows; a draft that is not the same has none of its own."""
    decoder = make_decoder("engine", reuse_mib=4)
    prompt = words(1, 40)
    decoder.generate(prompt, max_new_tokens=4)
    assert decoder.generate(prompt, max_new_tokens=4, policy="none").statistics.reused_tokens == 39
    other = make_decoder("engine").draft
    decoder.draft = other
    assert decoder.generate(prompt, max_new_tokens=4).statistics.reused_tokens == 0
    assert decoder.generate(prompt, max_new_tokens=4).statistics.reused_tokens == 39


def test_a_draft_that_cannot_go_on_reads_every_prompt() -> None:
    model = random_model(small_config("llama"))
    decoder = Decoder(Target(model), OracleDraft(model), Static(2, 8), reuse_mib=4)
    prompt = words(1, 40)
    for _ in range(2):
        assert decoder.generate(prompt, max_new_tokens=4).statistics.reused_tokens == 0
        decoder.draft.prompts = [prompt]  # type: ignore[union-attr]
    assert len(decoder.target.texts) == 0
    decoder.generate(prompt, max_new_tokens=4, policy="none")
    assert decoder.generate(prompt, max_new_tokens=4, policy="none").statistics.reused_tokens == 32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_keeps_nothing_and_harms_nothing(error: Exception) -> None:
    decoder, plain = make_decoder("engine", reuse_mib=4), make_decoder("engine")
    with patch.object(KVCache, "copy_rows", side_effect=error):
        answer = decoder.generate(words(1, 40), max_new_tokens=9)
    assert answer.token_ids == plain.generate(words(1, 40), max_new_tokens=9).token_ids
    assert len(decoder.target.texts) == 0


@pytest.mark.parametrize("kind", ["engine", "layers", "device"])
def test_recorded_cycles_go_on_from_kept_rows(kind: str) -> None:
    """They work on memory of their own, so rows are copied there; nothing is recorded anew."""
    plain, recorded = make_decoder(kind), make_decoder(kind, reuse_mib=4)
    tapes = taped(recorded)
    text = words(1, 40)
    for turn in range(4):
        answer = recorded.generate(text, max_new_tokens=16)
        assert answer.token_ids == plain.generate(text, max_new_tokens=16).token_ids
        assert (answer.statistics.reused_tokens > 0) == (turn > 0)
        text = [*text, *answer.token_ids, 9]
    assert len(tapes) == 1 and not tapes[0].calls and tapes[0].replays


@pytest.mark.parametrize("name", ["engine", "layers"])
@pytest.mark.parametrize("kind", OF_TEXT)
def test_positions_that_change_with_the_prompt_are_not_mixed(kind: str, name: str) -> None:
    """Prompts below the border of such a rotary type are read alike; beyond it every length has its own positions."""

    def made(**options: Any) -> Decoder:
        config = small_config("llama")
        config.max_position_embeddings = BORDER if kind == "dynamic" else 4 * BORDER
        config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, **OF_TEXT[kind]}
        model = random_model(config, seed=5)
        forward = Engine(model) if name == "engine" else TransformersLayers(model)
        decoder = Decoder(Target(model, forward=forward), **options)
        decoder.max_length = 4 * BORDER
        return decoder

    plain, reusing = made(), made(reuse_mib=4)
    start = words(2, BORDER - 12, 5, 90)
    lengths, reused = [BORDER - 12, BORDER - 4, BORDER, BORDER - 2, BORDER + 1, BORDER + 9], []
    for length in lengths:
        prompt = [*start, *words(3, 60, 5, 90)][:length]
        answer = reusing.generate(prompt, max_new_tokens=20)
        assert answer.token_ids == plain.generate(prompt, max_new_tokens=20).token_ids
        reused.append(answer.statistics.reused_tokens)
    below = [count for length, count in zip(lengths, reused, strict=True) if length <= BORDER]
    beyond = [count for length, count in zip(lengths, reused, strict=True) if length > BORDER]
    assert below[0] == 0 and min(below[1:]) >= CHUNK and set(beyond) == {0}


def test_a_cache_that_forgets_what_layers_read_keeps_prompts_alone() -> None:
    """Where decoded tokens see less than a prompt's, their rows are not those that a later prompt would have."""

    def made(**options: Any) -> Decoder:
        config = small_config("llama")
        config.sliding_window = 24
        model = random_model(config)
        return Decoder(Target(model, forward=Engine(model)), **options)

    plain, reusing = made(), made(reuse_mib=4)
    assert not reusing.target.forward.is_row_exact and make_decoder("engine").target.forward.is_row_exact
    text = words(1, 40)
    for turn in range(3):
        answer = reusing.generate(text, max_new_tokens=30)
        assert answer.token_ids == plain.generate(text, max_new_tokens=30).token_ids
        assert answer.statistics.reused_tokens == (0, 32, 64)[turn]
        text = [*text, *answer.token_ids]
    check_kept_rows(reusing)


def test_rows_that_were_cut_otherwise_are_read_anew() -> None:
    """As on a GPU, in caches of different sizes; a row-exact engine does not mind."""
    for kind, expected in (("device", 32), ("layers", 32), ("engine", 69)):
        decoder, asked = make_decoder(kind, reuse_mib=4), []

        def alike_at_first(cache: KVCache, capacity: int, rows: int, asked: list[int] = asked) -> bool:
            asked.append(capacity)
            return rows <= 40

        decoder.generate(words(1, 70), max_new_tokens=4)
        with patch.object(KVCache, "reads_as", alike_at_first):
            assert decoder.generate(words(1, 70), max_new_tokens=4).statistics.reused_tokens == expected
        assert set(asked) == ({256} if kind != "engine" else set())


def test_it_is_counted_and_said() -> None:
    statistics = Statistics(prompt_tokens=100, reused_tokens=80)
    assert statistics.to_dict()["reused_tokens"] == 80
    assert "prefill of 100 tokens, 80 of them known from before, in" in describe(statistics)
    assert "prefill of 100 tokens in" in describe(Statistics(prompt_tokens=100))
