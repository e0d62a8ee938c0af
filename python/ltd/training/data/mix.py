"""The kinds of text that drafts are trained on, and in which shares: what people ask a model for, in a few words.

Some kinds are about a text that is given in the prompt. It is text of earlier answers, so no data from outside is
needed. The others begin with nothing, or with a few first words, and the target goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ltd.common.argument_types import wrong_type
from ltd.errors import InputError

Passage = Literal["nothing", "text", "code"]
Frame = tuple[str, str]
"""What stands before and after the given text."""


@dataclass(frozen=True, slots=True)
class TextKind:
    """A kind of conversation.

    Attributes:
        name: in `mix`.
        share: of the answer tokens, by default.
        given: what the prompt holds beside a request.
        frames: requests, of which chance takes one; where nothing is given, the first words of a turn.
        asks: the target ends the user's turn itself, as with a question; otherwise it is whole with its frame.
        turns: of the user, fewest and most; None: one, or two in `two_turn_share` of the conversations.
        longest: most tokens of what is given; None: as many as the context takes.
    """

    name: str
    share: float
    given: Passage = "nothing"
    frames: tuple[Frame, ...] = ()
    asks: bool = True
    turns: tuple[int, int] | None = None
    longest: int | None = None

    @property
    def is_long(self) -> bool:
        """Whether its conversations may be as long as `context_length`, not only as `length`."""
        return self.given != "nothing" or self.turns is not None


CHAT = TextKind("chat", 0.36)
# In the order of their numbers in the shards: new ones go to the end.
KINDS = (
    CHAT,
    TextKind(
        "list",
        0.08,
        frames=tuple(
            (words, "")
            for words in (
                "List ten", "Make a numbered list of", "Give me a bulleted list of", "Make a table that compares",
                "Write a step-by-step guide to", "Give me a recipe for", "Write a to-do list for",
                "List the pros and cons of", "What are the steps to", "Write an outline for",
            )
        ),
    ),
    TextKind("turns", 0.12, turns=(3, 6)),
    TextKind(
        "question",
        0.16,
        given="text",
        frames=(
            ("Read the following text and answer the question.\n\n", "\n\nQuestion:"),
            ("Answer the question with what this text says.\n\nText: ", "\n\nQuestion:"),
            ("Context:\n", "\n\nUsing only the context above, answer this question:"),
            ("", "\n\nWith the text above in mind,"),
        ),
    ),
    TextKind(
        "summary",
        0.08,
        given="text",
        asks=False,
        frames=(
            ("Summarize the following text:\n\n", ""),
            ("Summarize the text below in two sentences.\n\n", ""),
            ("What are the main points of this text?\n\n", ""),
            ("", "\n\nSummarize the text above."),
            ("Write a title and a short summary for this:\n\n", ""),
        ),
    ),
    TextKind(
        "translation",
        0.06,
        given="text",
        asks=False,
        longest=192,
        frames=tuple(
            (f"Translate the following text into {language}:\n\n", "")
            for language in ("French", "Spanish", "German", "Italian", "Portuguese")
        ),
    ),
    TextKind(
        "rewrite",
        0.06,
        given="text",
        asks=False,
        longest=512,
        frames=(
            ("Rewrite the following text so that a child understands it:\n\n", ""),
            ("Make this text more formal:\n\n", ""),
            ("Correct the grammar and spelling of this text:\n\n", ""),
            ("Rewrite this text in half as many words:\n\n", ""),
            ("Continue this text:\n\n", ""),
            ("Turn the following text into bullet points:\n\n", ""),
        ),
    ),
    TextKind(
        "code",
        0.08,
        given="code",
        asks=False,
        longest=512,
        frames=(
            ("Add a docstring and comments to this code:\n\n```", "```"),
            ("Rewrite this code with better names:\n\n```", "```"),
            ("Find the bug in this code and write it again without it:\n\n```", "```"),
            ("Write tests for this code:\n\n```", "```"),
            ("Add checks of the arguments to this code:\n\n```", "```"),
            ("Explain this code line by line:\n\n```", "```"),
        ),
    ),
)  # fmt: skip
KIND_OF_NAME = {kind.name: kind for kind in KINDS}
DEFAULT_MIX = ",".join(f"{kind.name}={kind.share:g}" for kind in KINDS)
ONLY_CHAT = "chat=1"  # what all data was before there were other kinds


def parse_mix(text: str) -> dict[str, float]:
    """The share of every kind that is wanted at all, summing to 1; `text` is as in chat=0.5,summary=0.5.

    Raises:
        InputError: a kind is not known or named twice, a share is no number of 0 or more, or nothing can be given
            because every kind asks for given text.
    """
    if not isinstance(text, str):
        raise wrong_type("mix", text, "a text of kinds and shares")
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in KIND_OF_NAME:
            raise InputError(f"mix names {name!r}, but the kinds of text are {', '.join(KIND_OF_NAME)}")
        if name in shares:
            raise InputError(f"mix names {name} twice")
        try:
            shares[name] = float(number)
        except ValueError:
            raise InputError(f"mix says {part.strip()!r}, but needs kinds with shares, as in {DEFAULT_MIX}") from None
        if not 0 <= shares[name] <= 1e6:
            raise InputError(f"mix gives {name} a share of {number}; it must be a number of 0 or more")
    if not any(share > 0 and KIND_OF_NAME[name].given == "nothing" for name, share in shares.items()):
        raise InputError(
            "mix has only kinds about given text, which comes from other answers; give chat, list or turns a share too"
        )
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items() if share > 0}


def furthest_behind(shares: Mapping[str, float], written: Mapping[str, float]) -> Iterator[TextKind]:
    """The kinds, first the one that lacks most of its share; `written` are answer tokens so far, by kind.

    Equal ones in the order of `KINDS`.
    """
    total = sum(written.values())
    lacking = {name: share * total - written.get(name, 0) for name, share in shares.items()}
    if total == 0:
        lacking = dict(shares)
    order = [kind for kind in KINDS if kind.name in shares]
    return iter(sorted(order, key=lambda kind: -lacking[kind.name]))
