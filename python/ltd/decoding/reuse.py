"""What a request takes over of texts that begin as its prompts do, and what it leaves to later ones.

Rows are taken over only where reading anew would give the same bits. On a forward that is row-exact these are all rows
of a text, its answer's too. On others they are the rows of whole chunks of its prompt, which are read in parts that are
cut alike. The last token that both texts have in common is read again: a prompt's last token says how it goes on, and a
draft's row of a token knows the token after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

import numpy as np

from ltd.common.argument_types import as_whole
from ltd.common.out_of_memory import FAILURES, is_out_of_memory
from ltd.decoding.open_streams import program_ends
from ltd.decoding.request import Request
from ltd.drafts.base import ReusableDraftSession
from ltd.engine.kept_texts import KeptText, TokenIds, alike
from ltd.errors import InputError
from ltd.target.target import PREFILL_CHUNK, Target

REUSE_MIB = 512
"""As much as is kept unless a user says otherwise: about 20,000 tokens of a small model, 4,000 of one of 8 billion."""


def as_reuse(mib: Any) -> int:
    """The argument `reuse_mib` as a whole number; InputError if it is none, or negative."""
    number = as_whole(mib, "reuse_mib")
    if number < 0:
        raise InputError(f"reuse_mib is {number}; it must be at least 0, which keeps nothing of earlier texts")
    return number


class Reuse:
    """What one request takes over and leaves, in the target's `texts`.

    Nothing with a draft whose sessions are no `ReusableDraftSession`s.

    Args:
        target, request: that are asked; the request is open whenever something is taken or left.
        limit: how many bytes the kept texts may take; 0 is no reuse.
    """

    def __init__(self, target: Target, request: Request, limit: int) -> None:
        self.target, self.request, self.limit = target, request, limit
        self.is_row_exact = target.forward.is_row_exact
        # Rows are of use in so many at a time.
        self.unit = 1 if self.is_row_exact else PREFILL_CHUNK

    @cached_property
    def state(self) -> object | None:
        """The target's when the first prompt is read; None where nothing can be taken over or left."""
        if max(map(len, self.request.prompts)) < self.unit or self.limit == 0:
            return None
        if self.request.workspace.drafting is not self._drafting:
            return None
        return self.target.forward.state()

    def take(self, row: int) -> int:
        """Begins a sequence, which is new, with the rows of an earlier text; how many tokens need not be read."""
        if self.state is None:
            return 0
        request = self.request
        worth = partial(self._worth, np.array(request.prompts[row], dtype=np.int64))
        text, count = self.target.texts.find(self.state, worth)
        if text is None:
            return 0
        request.session.cache.take_rows(row, text.rows, count)
        if self._drafting is not None and text.drafted is not None:
            self._drafting.take_read(row, text.drafted, count + 1)
        request.statistics.reused_tokens += count
        return count

    def leave(self, places: Iterable[int], rows: list[int]) -> None:
        """Keeps copies of what sequences have read and written, as far as there is room for them.

        Args:
            places: of these sequences in the batch.
            rows: for each of its places, which prompt of the call it belongs to.
        """
        if self.state is None or program_ends.is_set():
            return
        for place in places:
            try:
                text = self._text(place, rows[place])
            except FAILURES as error:
                if is_out_of_memory(error):
                    return  # it is a favour to later requests, if there are any
                raise
            if text is not None:
                self.target.texts.add(self.state, text, self.limit)

    @property
    def _drafting(self) -> ReusableDraftSession | None:
        session = self.request.workspace.drafting
        return session if isinstance(session, ReusableDraftSession) else None

    @property
    def _draft(self) -> object | None:
        speculation = self.request.speculation
        return None if speculation is None else speculation.draft

    def _worth(self, prompt: TokenIds, text: KeptText) -> int:
        """How many tokens of a prompt need not be read where a text is known."""
        if not self.target.forward.reads_alike(text.prompt, len(prompt)):
            return 0
        count = min(alike(text.tokens, prompt) - 1, len(text.rows))
        if self._draft is not None:
            if text.draft is not self._draft or text.drafted is None:
                return 0
            count = min(count, text.drafted.length - 1)
        if self.is_row_exact:
            return count
        ends = range(self.unit, count + 1, self.unit)
        return max(takewhile(partial(self.request.session.cache.reads_as, text.capacity), ends), default=0)

    def _text(self, place: int, row: int) -> KeptText | None:
        """What a sequence has read, apart from it; None where no row of it would be of use."""
        cache, drafting = self.request.session.cache, self._drafting
        prompt = self.request.prompts[row]
        tokens = np.array([*prompt, *self.request.answers[row]], dtype=np.int64)
        # What was gained beyond an answer's end is in the cache, but not in the answer.
        count = min(cache.host_lengths[place], len(tokens) if self.is_row_exact else len(prompt))
        row_bytes = tokens.itemsize + cache.row_bytes + (0 if drafting is None else drafting.bytes_per_token)
        count = min(count, self.limit // row_bytes - 1) // self.unit * self.unit  # one token more than rows
        if count <= 0:
            return None
        known = tokens[: count + 1].copy()
        drafted = None if drafting is None else drafting.copy_read(place, len(known))
        return KeptText(known, cache.copy_rows(place, count), len(prompt), cache.capacity, self._draft, drafted)
