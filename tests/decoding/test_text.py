"""The streamed text against the tokenizer's own decoding of all tokens at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ltd.decoding.text_stream import REPLACEMENT, TextStream


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and one special token, so that every other character takes several tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


TOKENIZER = byte_tokenizer()


def pieces_of(token_ids: list[int], cuts: list[int]) -> list[str]:
    """The text as streamed when the tokens come in groups of these sizes, over and over."""
    stream = TextStream(TOKENIZER)
    pieces, start = [], 0
    while start < len(token_ids):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(stream.push(token_ids[start : start + size]))
        start += size
    return [*pieces, stream.finish()]


@given(st.lists(st.integers(0, len(TOKENIZER) - 1)), st.lists(st.integers(1, 4), min_size=1))
def test_pieces_join_to_the_whole_for_any_tokens(token_ids: list[int], cuts: list[int]) -> None:
    assert "".join(pieces_of(token_ids, cuts)) == TOKENIZER.decode(token_ids, skip_special_tokens=True)


@given(st.text(), st.lists(st.integers(1, 4), min_size=1))
def test_no_half_characters_are_shown(text: str, cuts: list[int]) -> None:
    pieces = pieces_of(TOKENIZER(text)["input_ids"], cuts)
    assert "".join(pieces) == text
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in text


def test_text_is_shown_as_soon_as_it_is_complete() -> None:
    stream = TextStream(TOKENIZER)
    euro = TOKENIZER("€")["input_ids"]
    assert len(euro) == 3
    assert [stream.push(TOKENIZER("ab")["input_ids"]), stream.push(euro[:2]), stream.push(euro[2:])] == ["ab", "", "€"]
    assert stream.push([TOKENIZER.eos_token_id]) == ""
