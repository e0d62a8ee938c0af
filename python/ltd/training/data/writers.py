"""The rows of a batch that the target writes: what each begins with, whose turn it is, and when it is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ltd.training.config import TrainDraftConfig
from ltd.training.data.chat_format import ChatFormat
from ltd.training.data.conversation import ANSWER, TEMPLATE, USER, Conversation
from ltd.training.data.given_texts import GivenTexts
from ltd.training.data.mix import CHAT, KINDS, TextKind

LEAST_ROOM_FOR_A_TURN = 64  # tokens; a second turn that could hold less is not begun
LEAST_GIVEN = 64  # tokens of a given text


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a conversation begins, behind the template's own first words.

    Attributes:
        given: what the user gives; does not count as written.
        opening: first words of the user's turn, which count.
        is_whole: the turn is finished with that.
    """

    given: Sequence[int] = ()
    opening: Sequence[int] = ()
    is_whole: bool = False


class Writer:
    """One row of the batch: takes the target's tokens one by one and says which token comes next.

    Args:
        length: tokens at most; None is the config's.
    """

    def __init__(
        self, chat: ChatFormat, config: TrainDraftConfig, greedy: bool, turns: int,
        beginning: Beginning = Beginning(), length: int | None = None,
    ) -> None:  # fmt: skip
        first = [*beginning.given, *beginning.opening]
        self.chat, self.config = chat, config
        self.tokens = [*chat.prefix, *first]
        self.roles = [TEMPLATE] * len(chat.prefix) + [USER] * len(first)
        self.role = USER
        self.turn_start = len(chat.prefix) + len(beginning.given)
        self.length = config.length if length is None else length
        self.answers_greedily, self.turns = greedy, turns
        self.done = False
        if beginning.is_whole:
            self._begin_answer()

    @property
    def temperature(self) -> float:
        """Of the next token; 0 = greedy."""
        if self.role == USER:
            return self.config.user_temperature
        return 0.0 if self.answers_greedily else 1.0

    def accept(self, token: int) -> None:
        """Take the token that the target wrote next."""
        config, written = self.config, len(self.tokens) - self.turn_start
        if self.role == USER:
            # A turn that fills the row leaves no room for an answer: then the row is done, see `_begin_answer`.
            if token in self.chat.user_ends or written >= config.user_length or len(self.tokens) >= self.length:
                self._end_user_turn(written)
            else:
                self._append([token], USER)
            return
        self._append([token], ANSWER)
        if token in self.chat.answer_ends:
            self._end_answer()
        self.done = self.done or written + 1 >= config.answer_length or len(self.tokens) >= self.length

    def finished(self) -> Conversation | None:
        """The conversation up to its last answer, or None where there is none."""
        if ANSWER not in self.roles:
            return None
        end = len(self.roles) - self.roles[::-1].index(ANSWER)
        return Conversation(self.tokens[:end], self.roles[:end])

    def _append(self, tokens: Iterable[int], role: int) -> None:
        for token in tokens:
            self.tokens.append(token)
            self.roles.append(role)

    def _end_user_turn(self, written: int) -> None:
        if written == 0:
            self.done = True
        else:
            self._begin_answer()

    def _begin_answer(self) -> None:
        self._append(self.chat.to_answer, TEMPLATE)
        self.role, self.turn_start = ANSWER, len(self.tokens)
        self.done = len(self.tokens) >= self.length

    def _end_answer(self) -> None:
        self.turns -= 1
        room = self.length - len(self.tokens) - len(self.chat.to_user)
        if self.turns == 0 or room < LEAST_ROOM_FOR_A_TURN:
            self.done = True
            return
        # The answer's last token is also the first of the text that follows, where the template has one there.
        follow = self.chat.to_user[1:] if self.tokens[-1] == self.chat.to_user[0] else self.chat.to_user
        self._append(follow, TEMPLATE)
        self.role, self.turn_start = USER, len(self.tokens)


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the rows of one shard have in common.

    Attributes:
        kind: of text.
        length: longest conversation, in tokens.
        rows: how many conversations.
        given: most tokens of a given text.
    """

    kind: TextKind
    length: int
    rows: int
    given: int = 0


def new_sheet(kind: TextKind, chat: ChatFormat, config: TrainDraftConfig, generator: torch.Generator) -> Sheet:
    """The sheet of a shard. Long conversations are fewer, so that the keys and values of all take no more memory.

    How much is given is the same in all rows, and drawn so that every factor between lengths is equally frequent.
    """
    if not kind.is_long:
        return Sheet(kind, config.length, config.rows_here)
    length, given = config.context_length, 0
    if kind.given != "nothing":
        around = _around_given(kind, chat, config)
        most = length - around
        most = min(most, kind.longest or most)
        share = float(torch.rand(1, generator=generator))
        given = round(LEAST_GIVEN * math.exp(share * math.log(most / LEAST_GIVEN)))
        second = config.user_length + config.answer_length + len(chat.to_answer) + len(chat.to_user)
        length = min(length, around + given + second)
    rows = min(config.rows_here, max(1, config.rows_here * config.length // length))
    return Sheet(kind, length, rows, given)


def _around_given(kind: TextKind, chat: ChatFormat, config: TrainDraftConfig) -> int:
    """Tokens of a conversation of one turn beside what is given, at most."""
    frame = max(len(before) + len(after) for before, after in chat.frames[kind.name])
    turn = config.user_length * kind.asks + config.answer_length
    return len(chat.prefix) + frame + turn + len(chat.to_answer)


def shortest_context(chat: ChatFormat, config: TrainDraftConfig) -> int:
    """The least `context_length` that has room for conversations about given texts; 0 where none are wanted."""
    kinds = [kind for kind in KINDS if kind.name in config.shares and kind.given != "nothing"]
    return max((LEAST_GIVEN + _around_given(kind, chat, config) for kind in kinds), default=0)


def new_writers(
    chat: ChatFormat, config: TrainDraftConfig, sheet: Sheet, texts: GivenTexts | None, generator: torch.Generator
) -> list[Writer]:
    """The writers of one shard, with what chance decides about each; `texts` only where the kind is given some."""
    chances = torch.rand(sheet.rows, 3, generator=generator).tolist()
    beginnings = _beginnings(chat, config, sheet, texts, [opened for _, _, opened in chances], generator)
    return [
        Writer(
            chat,
            config,
            greedy=greedy < config.greedy_share,
            turns=_turns(sheet.kind, config, second),
            beginning=beginning,
            length=sheet.length,
        )
        for (greedy, second, _), beginning in zip(chances, beginnings, strict=True)
    ]


def _turns(kind: TextKind, config: TrainDraftConfig, chance: float) -> int:
    if kind.turns is None:
        return 2 if chance < config.two_turn_share else 1
    fewest, most = kind.turns
    return fewest + int(chance * (most - fewest + 1))


def _beginnings(
    chat: ChatFormat, config: TrainDraftConfig, sheet: Sheet, texts: GivenTexts | None, chances: Sequence[float],
    generator: torch.Generator,
) -> list[Beginning]:  # fmt: skip
    """One for every row; `chances` decide which chats open with given words."""
    kind = sheet.kind
    frames = chat.frames.get(kind.name, ())
    count = len(frames) if frames else len(chat.openings)
    drawn = torch.randint(max(1, count), (sheet.rows,), generator=generator).tolist()
    if kind.given != "nothing":
        assert texts is not None
        parts = [(frames[index][0], texts.draw(kind, sheet.given), frames[index][1]) for index in drawn]
        return [Beginning(given=[*a, *text, *b], is_whole=not kind.asks) for a, text, b in parts]
    if frames:
        return [Beginning(opening=frames[index][0]) for index in drawn]
    share = config.opening_share if chat.openings else 0.0
    return [
        Beginning(opening=chat.openings[index] if chance < share else ())
        for index, chance in zip(drawn, chances, strict=True)
    ]


def shared_tokens(writers: Sequence[Writer], chat: ChatFormat, kind: TextKind) -> int:
    """How many tokens all rows have already: they are read at once, the others one by one in lockstep."""
    # A chat's openings are read in lockstep: so it was when the shipped head's data was made, and chance goes with it.
    return len(chat.prefix) if kind is CHAT else min(len(writer.tokens) for writer in writers)
