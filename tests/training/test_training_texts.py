"""Kinds of text, what is given in prompts, and the rows that the target writes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from ltd.common.shards import shard_file
from ltd.common.workers import Here
from ltd.errors import InputError
from ltd.target.opening import open_forward
from ltd.training import TrainDraftConfig
from ltd.training.data.chat_format import ChatFormat, read_chat_format
from ltd.training.data.conversation import ANSWER, TEMPLATE, USER, Conversation
from ltd.training.data.conversations import load_shard, written_shards
from ltd.training.data.floor import LockstepFloor, MachineRates
from ltd.training.data.given_texts import LEAST_BLOCKS, LEAST_CODE, SENTENCE, GivenTexts, code_blocks, is_varied
from ltd.training.data.lockstep import Lockstep
from ltd.training.data.mix import CHAT, DEFAULT_MIX, KIND_OF_NAME, KINDS, furthest_behind, parse_mix
from ltd.training.data.writers import LEAST_GIVEN, Beginning, Writer, new_sheet, new_writers, shortest_context
from ltd.training.data.writing import WritingJob, make_conversations, own_words
from ltd.training.data.writing_rates import ShardRate, WritingRates

Target = Callable[[str], Path]
PARAGRAPH, END, FENCE, STOP = 50, 51, 52, 2


def chat_format(**changes: Any) -> ChatFormat:
    frames = {kind.name: tuple(((60,), (61,)) for _ in kind.frames) for kind in KINDS}
    values: dict[str, Any] = {
        "prefix": (1, 1), "to_answer": (STOP, 3, 4), "to_user": (STOP, 5), "user_ends": frozenset({STOP}),
        "answer_ends": frozenset({STOP}), "openings": ((7, 8), (9,)), "frames": frames, "paragraph": (PARAGRAPH,),
        "sentence_ends": frozenset({END}), "fences": frozenset({FENCE}),
    }  # fmt: skip
    return ChatFormat(**{**values, **changes})


def config_of(**changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {"length": 90, "context_length": 400, "user_length": 12, "answer_length": 30, "rows": 16}
    return TrainDraftConfig(out="x", **{**values, **changes})


# --- the mix --------------------------------------------------------------------------------------------------------


def test_default_mix_is_a_whole_and_a_third_has_given_text() -> None:
    shares = parse_mix(DEFAULT_MIX)
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)
    assert shares == pytest.approx({kind.name: kind.share for kind in KINDS})
    assert 1 / 3 <= sum(share for name, share in shares.items() if KIND_OF_NAME[name].given != "nothing") <= 1 / 2


def test_the_docs_have_the_default_shares() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", docs, re.MULTILINE)
    assert {name: float(share) for name, share in rows} == {kind.name: kind.share for kind in KINDS}


@given(st.dictionaries(st.sampled_from(sorted(KIND_OF_NAME)), st.floats(0.001, 1000), min_size=1))
def test_shares_are_relative(weights: dict[str, float]) -> None:
    text = " , ".join(f"{name} = {weight!r}" for name, weight in weights.items())
    if all(KIND_OF_NAME[name].given != "nothing" for name in weights):
        with pytest.raises(InputError, match="only kinds about given text"):
            parse_mix(text)
        return
    assert parse_mix(text) == pytest.approx({name: each / sum(weights.values()) for name, each in weights.items()})


def test_kinds_without_a_share_are_left_out() -> None:
    assert parse_mix("chat=2,list=0") == {"chat": 1}


@settings(max_examples=50)
@given(
    weights=st.dictionaries(st.sampled_from(sorted(KIND_OF_NAME)), st.floats(0.01, 1), min_size=1),
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=200),
)
def test_shares_are_kept_by_what_is_written(weights: dict[str, float], sizes: list[int]) -> None:
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    written: dict[str, int] = {}
    for size in sizes:
        order = [kind.name for kind in furthest_behind(shares, written)]
        assert sorted(order) == sorted(shares)
        written[order[0]] = written.get(order[0], 0) + size
    total = sum(sizes)
    for name, share in shares.items():
        assert written.get(name, 0) <= share * total + max(sizes)


# --- given texts ----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    answers=st.lists(st.lists(st.integers(100, 999) | st.just(END), min_size=24, max_size=70), min_size=1, max_size=6),
    most=st.integers(30, 300),
    seed=st.integers(0, 99),
)
def test_given_text_is_answers_up_to_a_sentences_end(answers: list[list[int]], most: int, seed: int) -> None:
    texts = GivenTexts(chat_format(), answers, random.Random(seed))
    found = texts.text(most)
    assert 0 < len(found) <= most
    ends = END in found[max(0, most - SENTENCE) :]
    assert found[-1] == END if ends else len(found) == most
    assert len(found) > most - SENTENCE - 1
    parts, part = [], []  # type: ignore[var-annotated]
    for token in found:
        if token == PARAGRAPH:
            parts.append(part)
            part = []
        else:
            part.append(token)
    assert all(each in answers for each in parts)
    assert any(answer[: len(part)] == part for answer in answers)


def test_texts_that_repeat_themselves_are_given_only_where_there_are_no_others() -> None:
    loop, varied = [5, 6, 7] * 20, list(range(100, 160))
    assert GivenTexts(chat_format(), [loop, varied, [1] * 3], random.Random(0)).texts == [varied]
    assert GivenTexts(chat_format(), [loop, [1] * 3], random.Random(0)).texts == [loop]
    assert is_varied(varied) and not is_varied(loop)


@settings(max_examples=200)
@given(st.text(alphabet="ab`", max_size=120))
def test_code_stands_between_fences(text: str) -> None:
    answer = [FENCE if letter == "`" else ord(letter) for letter in text]
    expected = [block for block in re.findall("`([^`]*)`", text) if len(block) >= LEAST_CODE]
    assert list(code_blocks(answer, frozenset({FENCE}))) == [[ord(letter) for letter in block] for block in expected]


def test_code_is_asked_about_only_where_there_is_enough() -> None:
    block = [*range(100, 130)]
    answers = [[FENCE, *(token + 40 * n for token in block), FENCE] for n in range(LEAST_BLOCKS)]
    code = KIND_OF_NAME["code"]
    assert not GivenTexts(chat_format(), answers[1:], random.Random(0)).enough_for(code)
    texts = GivenTexts(chat_format(), answers, random.Random(0))
    assert texts.enough_for(code)
    assert texts.draw(code, 20) in [answer[1:21] for answer in answers]
    assert not GivenTexts(chat_format(), [], random.Random(0)).enough_for(KIND_OF_NAME["summary"])


def test_own_words_and_answers() -> None:
    t, u, a = TEMPLATE, USER, ANSWER
    conversation = Conversation([1, 5, 2, 8, 9, 2, 3, 7, 4, 6], [t, u, t, a, a, a, t, u, t, a])
    answers = list(conversation.answers())
    assert answers == [[8, 9, 2], [6]]
    assert [own_words(answer, chat_format()) for answer in answers] == [[8, 9], [6]]


# --- the rows -------------------------------------------------------------------------------------------------------


def test_given_text_does_not_count_as_written() -> None:
    chat, config = chat_format(), config_of(user_length=2)
    writer = Writer(chat, config, False, 1, Beginning(given=[20] * 30), length=400)
    for token in (21, 22, 23, 30, STOP):  # the third question token is one too many
        assert not writer.done
        writer.accept(token)
    conversation = writer.finished()
    assert conversation is not None
    assert conversation.tokens == [1, 1, *[20] * 30, 21, 22, STOP, 3, 4, 30, STOP]
    assert conversation.roles == [TEMPLATE] * 2 + [USER] * 32 + [TEMPLATE] * 3 + [ANSWER] * 2


def test_a_whole_turn_is_answered_at_once() -> None:
    writer = Writer(chat_format(), config_of(), True, 2, Beginning(given=[20, 21], is_whole=True), length=400)
    assert writer.temperature == 0
    for token in (30, STOP, 31, STOP, 32, STOP):
        writer.accept(token)
    conversation = writer.finished()
    assert writer.done and conversation is not None
    assert conversation.tokens == [1, 1, 20, 21, STOP, 3, 4, 30, STOP, 5, 31, STOP, 3, 4, 32, STOP]


def test_chats_take_chance_as_when_the_shipped_head_was_made() -> None:
    chat, config = chat_format(), config_of(rows=200, opening_share=0.4)
    generator = torch.Generator().manual_seed(8)
    writers = new_writers(chat, config, new_sheet(CHAT, chat, config, generator), None, generator)
    generator.manual_seed(8)
    chances = torch.rand(200, 3, generator=generator)
    openings = torch.randint(2, (200,), generator=generator)
    for writer, (greedy, second, opened), opening in zip(writers, chances.tolist(), openings.tolist(), strict=True):
        assert writer.answers_greedily == (greedy < config.greedy_share)
        assert writer.turns == (2 if second < config.two_turn_share else 1)
        assert tuple(writer.tokens) == (1, 1, *(chat.openings[opening] if opened < 0.4 else ()))
        assert writer.length == 90


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not CHAT], ids=lambda kind: kind.name)
def test_rows_of_a_kind_have_room_and_about_one_length(kind: Any) -> None:
    chat, config = chat_format(), config_of(user_length=40, answer_length=60)
    answers = [[*range(100 + n, 200 + n), END, FENCE, *range(300, 340 + n), FENCE] for n in range(20)]
    texts = GivenTexts(chat, answers, random.Random(1))
    seen = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        sheet = new_sheet(kind, chat, config, generator)
        assert sheet.rows * sheet.length <= 16 * 90 or sheet.rows == 1 or not kind.is_long
        assert sheet.length <= (400 if kind.is_long else 90)
        writers = new_writers(chat, config, sheet, texts, generator)
        sizes = [len(writer.tokens) for writer in writers]
        # What is left is enough for the question and the answer.
        left = sheet.length - max(sizes) - (0 if not kind.asks else len(chat.to_answer))
        assert left >= config.answer_length + kind.asks * (config.user_length if kind.given != "nothing" else 0) - 3
        assert all(writer.role == (USER if kind.asks else ANSWER) for writer in writers)
        if kind.given == "text":
            assert max(sizes) - min(sizes) <= SENTENCE
            assert min(kind.longest or 400, 400) >= sheet.given >= LEAST_GIVEN
        seen.add(sheet.given)
        turns = {writer.turns for writer in writers}
        assert turns <= (set(range(kind.turns[0], kind.turns[1] + 1)) if kind.turns else {1, 2})
    assert len(seen) > 10 or kind.given == "nothing"


def test_shortest_context_is_just_enough() -> None:
    chat, config = chat_format(), config_of(context_length=90)
    least = shortest_context(chat, config)
    assert least == 2 + 2 + LEAST_GIVEN + 12 + 30 + 3
    for kind in KINDS:
        sheet = new_sheet(kind, chat, config_of(context_length=least), torch.Generator().manual_seed(1))
        assert sheet.given == (LEAST_GIVEN if kind.given != "nothing" and kind.asks else sheet.given)
    assert shortest_context(chat, config_of(mix="chat=1,list=2")) == 0


# --- the whole ------------------------------------------------------------------------------------------------------


def test_frames_and_marks_of_a_tokenizer(tiny_target: Target) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    chat = read_chat_format(tokenizer, (2,))
    for kind in KINDS:
        for (before, after), texts in zip(chat.frames[kind.name], kind.frames, strict=True):
            assert (tokenizer.decode(before), tokenizer.decode(after)) == texts
    assert {tokenizer.decode([token]) for token in chat.sentence_ends} == {".", "!", "?", "\n"}
    assert tokenizer.decode(chat.paragraph) == "\n\n"
    assert not chat.fences


def test_no_row_outgrows_its_cache(tiny_target: Target, tmp_path: Path) -> None:
    """Answers end anywhere, users never: of a second turn there may be more than the conversation has room for."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    vocabulary = model.config.vocab_size
    chat = chat_format(
        to_answer=(3, 4), user_ends=frozenset({vocabulary}), answer_ends=frozenset(range(vocabulary // 32)), openings=()
    )
    config = config_of(length=250, user_length=100, answer_length=100, mix="chat=1", two_turn_share=1.0, rows=48)
    forward = open_forward(model, takes_weights=True)
    assert Lockstep(forward, 1, config.length + len(chat.to_answer) + len(chat.to_user)).cache.capacity == 256
    make_conversations(WritingJob(lambda: forward, chat, config, torch.float32), tmp_path, tmp_path / "none", 1, Here())
    written = load_shard(shard_file(tmp_path, 0), 0)
    assert written and all(len(each.tokens) <= config.length and each.roles[-1] == ANSWER for each in written)


def test_data_of_all_kinds(tiny_target: Target, tmp_path: Path) -> None:
    """Every kind but code, which this target does not write, about as much as its share; texts come from before."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    chat = read_chat_format(tokenizer, (2,))
    config = config_of(context_length=240, rows=12, seed=3)
    job = WritingJob(lambda: open_forward(model, takes_weights=True), chat, config, torch.float32)
    make_conversations(job, tmp_path / "data", tmp_path / "none", 9000, Here())
    shards = written_shards(tmp_path / "data")
    assert sum(shard.tokens for shard in shards) >= 9000
    assert {shard.kind.name for shard in shards} == set(KIND_OF_NAME) - {"code"}
    answers = {kind.name: sum(each.answer_tokens for each in shards if each.kind is kind) for kind in KINDS}
    largest = max(shard.answer_tokens for shard in shards)
    for name, share in parse_mix(DEFAULT_MIX).items():  # what code lacks goes to the others
        assert answers[name] <= share / (1 - KIND_OF_NAME["code"].share) * sum(answers.values()) + largest
    earlier: list[str] = []
    for number, shard in enumerate(shards):
        loaded = load_shard(sorted((tmp_path / "data").glob("*.safetensors"))[number], number)
        assert {KINDS[each.kind].name for each in loaded} <= {shard.kind.name}
        for each in loaded if shard.kind.given == "text" else ():
            text = tokenizer.decode(each.question)
            assert any(before in text and after in text for before, after in shard.kind.frames)
            assert any(answer[:20] in text for answer in earlier)
        if shard.kind.given == "nothing":
            earlier += [tokenizer.decode(answer) for each in loaded for answer in each.answers() if len(answer) > 20]
    facts = WritingRates(tmp_path).facts()
    assert facts.keys() == {"all", *(name for name, count in answers.items() if count)}
    assert all(rate["tokens_per_second"] > 0 and rate["share_of_floor"] > 0 for rate in facts.values())


# --- the floor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_floor_counts_the_models_own_weights(family: str, tiny_target: Target) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target(family))
    linear = [module.weight.numel() for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    floor = LockstepFloor.of(model.config, torch.bfloat16, MachineRates(read=1e3, multiply=1e6))
    assert floor.layer_weights == sum(linear)
    assert floor.output_weights == model.lm_head.weight.numel()
    cache = open_forward(model, takes_weights=False).open(1, 64)
    per_row = cache.keys[:, :, :, 0].numel() + cache.values[:, :, :, 0].numel()
    assert floor.cached_bytes == 2 * per_row
    heads = model.config.num_attention_heads * model.config.head_dim
    # Three rows of two tokens behind five: the first sees six, the second seven, once for scores and once for sums.
    products = 3 * (2 * sum(linear) + floor.output_weights) + 3 * (6 + 7) * 2 * 8 * heads
    read = 2 * (sum(linear) + floor.output_weights) + 3 * 7 * 2 * per_row
    assert floor.seconds(3, 2, 5) == pytest.approx(max(2 * products / 1e6, read / 1e3))


def test_lockstep_adds_up_its_floor(tiny_target: Target) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    floor = LockstepFloor.of(model.config, torch.float32, MachineRates(read=1e9, multiply=1e7))
    texts = Lockstep(open_forward(model, takes_weights=True), 4, 30, floor)
    texts.append(torch.ones(4, 5, dtype=torch.int64))
    texts.keep([0, 1])
    texts.append(torch.ones(2, 1, dtype=torch.int64))
    assert texts.least_seconds == pytest.approx(floor.seconds(4, 5, 0) + floor.seconds(2, 1, 5))


def test_rates_are_kept_and_read_again(tmp_path: Path) -> None:
    WritingRates(tmp_path).add(0, ShardRate("chat", 100, 2.0, 1.0))
    WritingRates(tmp_path).add(1, ShardRate("list", 300, 2.0, 0.5))
    rates = WritingRates(tmp_path)
    assert rates.seconds_per_token == pytest.approx(0.01)
    assert rates.facts()["all"] == {"tokens_per_second": 100.0, "share_of_floor": 0.375}
    assert rates.facts()["chat"] == {"tokens_per_second": 50.0, "share_of_floor": 0.5}
    assert str(rates.shards["1"]) == "list, 300 tokens at 150/s, 25 % of the machine's floor"
