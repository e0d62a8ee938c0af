"""A conversation: its tokens, and who wrote each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

TEMPLATE, USER, ANSWER = 0, 1, 2


def learned_roles(user_turns: bool) -> tuple[int, ...]:
    """The roles whose tokens the head learns to predict."""
    return (USER, ANSWER) if user_turns else (ANSWER,)


@dataclass(slots=True)
class Conversation:
    """Token ids and, for each, the role (TEMPLATE, USER or ANSWER) it was written in; and where it is stored.

    kind: the number of its kind in `ltd.training.data.mix.KINDS`.
    """

    tokens: list[int]
    roles: list[int]
    shard: int = -1
    start: int = -1  # index of its first token in the shard
    kind: int = 0

    @property
    def question(self) -> tuple[int, ...]:
        """The tokens up to the first answer."""
        return tuple(self.tokens[: self.roles.index(ANSWER)] if ANSWER in self.roles else self.tokens)

    def is_held_out(self, share: float) -> bool:
        """Whether this conversation is for measuring; depends on its question alone, so it never changes sides."""
        digest = hashlib.blake2b(repr(self.question).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < share * 2**64

    def answers(self) -> Iterator[list[int]]:
        """The tokens of every answer."""
        return self.turns(ANSWER)

    def turns(self, role: int) -> Iterator[list[int]]:
        """The tokens of every turn that was written in a role, USER or ANSWER."""
        turn: list[int] = []
        for token, writer in zip([*self.tokens, -1], [*self.roles, TEMPLATE], strict=True):
            if writer == role:
                turn.append(token)
            elif turn:
                yield turn
                turn = []
