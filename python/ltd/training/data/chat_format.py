"""The fixed parts of a target's chat template: what stands before, between and after the turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ltd.errors import InputError
from ltd.target.model import LoadedModel, stop_token_ids
from ltd.training.data.mix import KINDS
from ltd.training.data.openings import OPENINGS

SENTENCE_ENDS = (".", "!", "?", "\n", "Ċ", "。")  # Ċ is how byte-level vocabularies write a line's end
FENCE = "```"
USER, ANSWER, NEXT_USER = "UserSentinelOne", "AnswerSentinelTwo", "UserSentinelThree"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Token ids of the template's fixed text, and the tokens that end a turn."""

    prefix: tuple[int, ...]  # before the first user turn
    to_answer: tuple[int, ...]  # between a user turn and its answer
    to_user: tuple[int, ...]  # between an answer and the next user turn
    user_ends: frozenset[int]
    answer_ends: frozenset[int]
    openings: tuple[tuple[int, ...], ...] = ()  # first words of user turns
    frames: dict[str, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = field(default_factory=dict)  # by kind
    paragraph: tuple[int, ...] = ()  # between two texts
    sentence_ends: frozenset[int] = frozenset()  # tokens that end a sentence or a line
    fences: frozenset[int] = frozenset()  # tokens that begin or end a block of code


def chat_format_of(target: LoadedModel) -> ChatFormat:
    """That of a loaded target, see `read_chat_format`."""
    return read_chat_format(target.tokenizer, stop_token_ids(target.model, target.tokenizer))


def read_chat_format(tokenizer: Any, stop_tokens: tuple[int, ...]) -> ChatFormat:
    """Find the fixed parts by templating conversations of sentinels, so that any template works.

    A turn ends with one of `stop_tokens` or with the first token of the text that follows it.
    Raises InputError if the tokenizer has no chat template or the template does not keep the turns' text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the target's tokenizer has no chat template, so it cannot write its own training data")
    first = [{"role": "user", "content": USER}]
    both = [*first, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": NEXT_USER}]
    asked = tokenizer.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    prefix_text, answer_text = _between(asked, "", USER), _between(asked, USER, "")
    user_text = _between(tokenizer.apply_chat_template(both, tokenize=False), ANSWER, NEXT_USER)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids) if text else ()

    prefix, to_answer, to_user = ids(prefix_text), ids(answer_text), ids(user_text)
    if not prefix or not to_answer or not to_user:
        raise InputError("the target's chat template puts no text around the turns, so their ends cannot be told")
    stops = frozenset(stop_tokens)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return ChatFormat(
        prefix,
        to_answer,
        to_user,
        stops | {to_answer[0]},
        stops | {to_user[0]},
        openings=tuple(ids(text) for text in OPENINGS),
        frames={kind.name: tuple((ids(before), ids(after)) for before, after in kind.frames) for kind in KINDS},
        paragraph=ids("\n\n"),
        sentence_ends=frozenset(id for id, word in enumerate(words) if word and word.endswith(SENTENCE_ENDS)),
        fences=frozenset(id for id, word in enumerate(words) if word and FENCE in word),
    )


def _between(text: str, left: str, right: str) -> str:
    """The part of `text` after `left` and before `right` (an empty one means the text's own end)."""
    start = text.find(left) + len(left)
    end = text.find(right, start) if right else len(text)
    if (left and left not in text) or end < 0:
        raise InputError("the target's chat template changes or drops the text of a turn, so its parts cannot be found")
    return text[start:end]
