"""Texts that were read before, with what was read of them, for requests that begin with the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ltd.common.turn_lock import TurnLock
from ltd.engine.kv_cache import CacheRows

TokenIds = NDArray[np.int64]


class ReadText(Protocol):
    """What a draft read of the beginning of a text, apart from any session.

    Attributes:
        length: how many of the text's first tokens it knows.
        nbytes: memory that it takes.
    """

    @property
    def length(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class KeptText:
    """The beginning of a text, and what was read of it. Nobody changes it.

    Attributes:
        tokens: int64 (n,).
        rows: the target's keys and values of the first of them.
        prompt: how many tokens of the text were its prompt's, more than n if not all are here.
        capacity: rows of the cache that they were made in.
        draft: that read along; None without one.
        drafted: what it read.
    """

    tokens: TokenIds
    rows: CacheRows
    prompt: int
    capacity: int
    draft: object | None = None
    drafted: ReadText | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.tokens.nbytes + self.rows.nbytes + (0 if self.drafted is None else self.drafted.nbytes)

    def replaces(self, other: KeptText) -> bool:
        """Whether another one is of no use beside it, as this goes on where the other ends."""
        if len(self.rows) < len(other.rows) or alike(self.tokens, other.tokens) < len(other.tokens):
            return False
        if other.drafted is None:
            return True
        return self.draft is other.draft and self.drafted is not None and self.drafted.length >= other.drafted.length


class KeptTexts:
    """Some texts, the one that was of use last at the end. Any thread may ask.

    All were read by a target in one state, see `ltd.engine.forward.Forward.state`; they go when another one comes.
    """

    def __init__(self) -> None:
        self._texts: tuple[KeptText, ...] = ()
        self._state: object = None
        # One that its thread may enter again: a stream that is collected leaves a text behind, whatever is going on.
        self._lock = TurnLock()

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(text.nbytes for text in self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def find(self, state: object, worth: Callable[[KeptText], int]) -> tuple[KeptText | None, int]:
        """The text that is worth most, and how much; None, 0 if none is worth anything.

        Args:
            state: of the target now.
            worth: of a text, to whom asks.
        """
        self._follow(state)
        found = [(worth(text), text) for text in reversed(self._texts)]
        best, text = max(found, key=lambda each: each[0], default=(0, None))
        if text is None or best <= 0:
            return None, 0
        with self._lock:
            if text in self._texts:  # another thread may have let it go, which does it no harm
                self._texts = (*(each for each in self._texts if each is not text), text)
        return text, best

    def add(self, state: object, text: KeptText, limit: int) -> None:
        """Keeps one more text. Those that were of no use for longest go, until all take no more than `limit` bytes.

        Args:
            state: of the target when the text was read.
        """
        with self._lock:
            self._follow(state)
            texts = [each for each in self._texts if not text.replaces(each)] + [text]
            size = sum(each.nbytes for each in texts)
            while size > limit:
                size -= texts.pop(0).nbytes
            self._texts = tuple(texts)

    def clear(self) -> bool:
        """Lets all go; whether there was any."""
        with self._lock:
            found, self._texts = bool(self._texts), ()
        return found

    def _follow(self, state: object) -> None:
        with self._lock:
            if state != self._state:
                self._texts, self._state = (), state

    def __deepcopy__(self, memo: dict[int, object]) -> KeptTexts:
        """One that has nothing yet: the copy of a model may be changed."""
        return KeptTexts()


def alike(tokens: TokenIds, others: TokenIds) -> int:
    """How many tokens two texts have in common at their beginnings."""
    count = min(len(tokens), len(others))
    different = np.flatnonzero(tokens[:count] != others[:count])
    return int(different[0]) if len(different) else count
