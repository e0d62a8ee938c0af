"""Turns a growing list of token ids into text as it grows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ltd.common.argument_types import as_truth, as_wholes, check_offers
from ltd.errors import InputError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TOKENIZER = ("decode", "convert_ids_to_tokens", "added_tokens_decoder", "all_special_ids")  # what is asked of one
MOST_PENDING = 3  # bytes of an unfinished UTF-8 character, each of which may show as a replacement character
WINDOW = 32  # tokens that are usually decoded at once, at most
# A byte token of SentencePiece. A run of them is decoded as a whole: one wrong byte, and every byte of it is replaced.
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Where a clean-up of spaces (`clean_up_tokenization_spaces`) can be cut in two without a difference. It takes spaces
# from before punctuation and contractions: what it looks for begins with a space, has at most three other characters
# (` n't`), and never two letters or digits before its last character.
CLEAN_CUT = re.compile(r"(?<=[^\W_]{2})|(?<=\S{4})")


class TextStream:
    """Detokenises step by step; the pieces joined are exactly what the tokenizer's `decode` makes of all tokens.

    What may still change is held back: half a character, a run of byte tokens (SentencePiece's `<0x..>`), and with
    `clean_up_tokenization_spaces` what follows a space, until it is clear whether the space stays. Nothing that was
    given out is ever taken back.

    Only a window of the newest tokens is decoded at every step, so the cost is linear in the length of the text: a
    token is decoded about `WINDOW` times. Where the window cannot move on because all of it is held back, it grows and
    is decoded less often.

    Args:
        tokenizer: of `transformers`. Its decoder must be local, as all usual ones are: besides the above, the text of
            a token may depend on whether it is the first or the last, and on the bytes beside it.
        skip_special_tokens: as `decode` takes it.

    Raises:
        InputError: an argument of the wrong type.
    """

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool = True) -> None:
        check_offers(tokenizer, TOKENIZER, "tokenizer", "a tokenizer of transformers")
        self._tokenizer, self._skip = tokenizer, as_truth(skip_special_tokens, "skip_special_tokens")
        self._cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self._special = special_ids(tokenizer) if self._skip else frozenset[int]()
        self._begin()

    def _begin(self) -> None:
        self._window: list[int] = []  # the newest tokens; the text of the next ones depends on no others
        self._run = 0  # tokens of the window's end from the last run of byte tokens on, if it is not over
        self._decoded = 0  # tokens of the window that have been decoded
        self._given = 0  # characters of their text, before any clean-up, that have been given out

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds tokens and returns the text that is certain now and was not before; maybe none.

        Raises:
            InputError: something else than token ids.
        """
        token_ids = as_wholes(token_ids, "token_ids")
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < 2**31:
            raise InputError(f"token_ids are {min(token_ids)} … {max(token_ids)}, but must be within 0 … 2^31 - 1")
        names = self._tokenizer.convert_ids_to_tokens(list(token_ids))
        for token, name in zip(token_ids, names, strict=True):
            is_byte = name is not None and BYTE_TOKEN.fullmatch(name) is not None
            leaves_no_text = name is None or token in self._special
            self._run = self._run + 1 if is_byte or (leaves_no_text and self._run) else 0
        self._window += token_ids
        end = len(self._window) - self._run
        if end - self._decoded < max(1, len(self._window) // WINDOW):
            return ""
        text = self._decode(end)
        piece = self._give(text, end, self._certain(text))
        if end >= WINDOW:
            self._move_on(text[self._given :])
        return piece

    def finish(self) -> str:
        """Returns what was held back, and begins a new text."""
        end = len(self._window)
        text = self._decode(end)
        piece = self._give(text, end, len(text))
        self._begin()
        return piece

    def _decode(self, end: int, start: int = 0) -> str:
        """The text of a part of the window, without clean-up."""
        options = {"clean_up_tokenization_spaces": False} if self._cleans else {}
        part = self._window[start:end]
        return str(self._tokenizer.decode(part, skip_special_tokens=self._skip, **options))

    def _certain(self, text: str) -> int:
        """How many characters of the window's text no further token changes."""
        pending = len(text) - len(text.rstrip(REPLACEMENT))
        end = max(self._given, len(text) - min(pending, MOST_PENDING))
        if not self._cleans:
            return end
        return max((cut.end() for cut in CLEAN_CUT.finditer(text, self._given, end)), default=self._given)

    def _give(self, text: str, end: int, until: int) -> str:
        """Marks the text of the window's first `end` tokens as given, up to a character, and returns what is new."""
        piece = text[self._given : until]
        if self._cleans:
            cleaned = str(self._tokenizer.clean_up_tokenization(piece))
            # Asked, because it does not clean for every kind of model: then its own text has what the piece has.
            if cleaned != piece and text != self._tokenizer.decode(self._window[:end], skip_special_tokens=self._skip):
                piece = cleaned
        self._decoded, self._given = end, until
        return piece

    def _move_on(self, held: str) -> None:
        """Keeps the last quarter of the decoded tokens, if that is enough to tell the text that is still to come.

        It is if its text ends with what is held back (and then with everything after it, as decoders are local), and
        something comes before it: the first token's own rules, such as a space left out, are then behind.
        """
        start = self._decoded - self._decoded // 4
        text = self._decode(self._decoded, start)
        before = len(text) - len(held)
        if before > 0 and text.endswith(held):
            self._window, self._decoded, self._given = self._window[start:], self._decoded - start, before


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of all tokens that are special, by their role or as they were added."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))
