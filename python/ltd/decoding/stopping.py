"""When an answer ends: exactly where plain decoding would end it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ltd.common.argument_types import as_whole, as_wholes
from ltd.errors import InputError


class Stops(Protocol):
    """Decides token by token; a cycle may bring tokens beyond the end, which are dropped."""

    def limit(self, row: int) -> int:
        """The most new tokens that prompt `row` can get; sizes the cache."""
        ...

    def finished(self, row: int, answer: list[int]) -> bool:
        """Whether the answer to prompt `row` ends with its last token; asked after each token, in order."""
        ...


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop tokens and a length.

    Attributes:
        stop_ids: tokens that end an answer (and are part of it).
        limits: the most new tokens, per prompt.
    """

    stop_ids: frozenset[int]
    limits: list[int]

    @classmethod
    def usual(cls, prompts: list[list[int]], stop_ids: Iterable[int], max_new_tokens: int, max_length: int) -> StopRule:
        """At most max_new_tokens new ones, and max_length with the prompt.

        Raises:
            InputError: none is wanted, or a number is not whole.
        """
        max_new_tokens = as_whole(max_new_tokens, "max_new_tokens")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens} is out of range; it must be at least 1")
        ends = frozenset(as_wholes(stop_ids, "stop_token_ids"))
        return cls(ends, [min(max_new_tokens, max_length - len(prompt)) for prompt in prompts])

    def limit(self, row: int) -> int:
        """The most new tokens of this prompt."""
        return self.limits[row]

    def finished(self, row: int, answer: list[int]) -> bool:
        """A stop token, or the limit."""
        return answer[-1] in self.stop_ids or len(answer) >= self.limits[row]


def take(
    rows: list[int], token_lists: list[list[int]], answers: list[list[int]], stops: Stops
) -> tuple[dict[int, list[int]], list[int]]:
    """Appends each sequence's tokens to its answer, as far as it goes.

    Args:
        rows: for each sequence, its prompt.
        token_lists: what each sequence gained.
        answers: per prompt; extended in place.

    Returns:
        {prompt: its new tokens}, and the sequences (indices into `rows`) that go on.
    """
    news: dict[int, list[int]] = {}
    alive = []
    for index, (row, tokens) in enumerate(zip(rows, token_lists, strict=True)):
        before = len(answers[row])
        for token in tokens:
            answers[row].append(token)
            if stops.finished(row, answers[row]):
                break
        else:
            alive.append(index)
        news[row] = answers[row][before:]
    return news, alive
