"""Text to put into prompts: pieces of answers that the target wrote earlier."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from ltd.training.data.chat_format import ChatFormat
from ltd.training.data.mix import TextKind

LEAST_TEXT = 24  # tokens of an answer that is worth giving
LEAST_CODE = 16  # the same, of a block of code
LEAST_BLOCKS = 8  # fewer blocks of code would be seen again and again
LEAST_VARIED = 0.5  # share of a text's runs of four tokens that are not a repetition of another
SENTENCE = 64  # tokens at the end of a text in which the end of a sentence is looked for
RUN = 4


class GivenTexts:
    """Answers, as token ids, to draw texts and code from.

    Args:
        chat: says which tokens end a sentence and mark code.
        answers: without the tokens that end a turn.
        chance: draws.
    """

    def __init__(self, chat: ChatFormat, answers: Iterable[Sequence[int]], chance: random.Random) -> None:
        self.chat, self.chance = chat, chance
        long = [list(answer) for answer in answers if len(answer) >= LEAST_TEXT]
        # A small model repeats itself at times. Where it always does, that is what its texts are.
        self.texts = [answer for answer in long if is_varied(answer)] or long
        self.blocks = [block for answer in self.texts for block in code_blocks(answer, chat.fences)]

    def enough_for(self, kind: TextKind) -> bool:
        """Whether there is something to give."""
        if kind.given == "code":
            return len(self.blocks) >= LEAST_BLOCKS
        return kind.given == "nothing" or bool(self.texts)

    def draw(self, kind: TextKind, most: int) -> list[int]:
        """What a prompt of a kind holds, of at most so many tokens; see `text`. Code is cut where it has more."""
        return self.chance.choice(self.blocks)[:most] if kind.given == "code" else self.text(most)

    def text(self, most: int) -> list[int]:
        """Answers one after the other, up to the last end of a sentence before so many tokens, or to exactly so many.

        So texts drawn for the same number have about the same length, and what is written behind them can be written
        in lockstep.
        """
        found: list[int] = []
        while len(found) < most:
            found += [*(self.chat.paragraph if found else ()), *self.chance.choice(self.texts)]
        ends = [place for place in range(max(0, most - SENTENCE), most) if found[place] in self.chat.sentence_ends]
        return found[: ends[-1] + 1 if ends else most]


def code_blocks(answer: Sequence[int], fences: frozenset[int]) -> Iterator[list[int]]:
    """What stands between an opening and a closing fence, if it is long enough."""
    places = [place for place, token in enumerate(answer) if token in fences]
    for first, last in zip(places[::2], places[1::2], strict=False):
        if last - first - 1 >= LEAST_CODE:
            yield list(answer[first + 1 : last])


def is_varied(answer: Sequence[int]) -> bool:
    """Whether an answer does not say the same again and again."""
    runs = [tuple(answer[place : place + RUN]) for place in range(len(answer) - RUN + 1)]
    return len(set(runs)) >= LEAST_VARIED * len(runs)
