"""Streamers of `transformers`, fed as `generate` feeds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ltd.decoding.request import Request


class TokenStream:
    """Tells a streamer every step once all rows of the batch have taken it.

    Args:
        streamer: of `transformers`.
        request: whose answers are streamed.
        pad: what stands behind a finished row.
    """

    def __init__(self, streamer: Any, request: Request, pad: int) -> None:
        self._streamer, self._request, self._pad = streamer, request, pad
        self._steps = 0

    def advance(self) -> None:
        """Puts the steps that are new since the last call: int64 (B,) each."""
        answers, stops = self._request.answers, self._request.stops
        going = [len(answer) for row, answer in enumerate(answers) if not stops.finished(row, answer)]
        ready = min(going) if going else max(map(len, answers))
        for step in range(self._steps, ready):
            tokens = [answer[step] if step < len(answer) else self._pad for answer in answers]
            self._streamer.put(torch.tensor(tokens))
        self._steps = ready


@contextmanager
def ended(streamer: Any) -> Iterator[None]:
    """Ends a streamer whatever happens, so that nobody waits for it for ever; None is no streamer.

    One that can be cancelled is a server's, which hears of errors by itself: an end before the error would pass for
    that of a whole answer.
    """
    is_whole = False
    try:
        yield
        is_whole = True
    finally:
        if streamer is not None and (is_whole or not hasattr(streamer, "cancel")):
            streamer.end()
