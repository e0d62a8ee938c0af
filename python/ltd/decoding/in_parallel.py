"""A decoder whose target is spread over several processes, every one of which makes the same calls."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.open_streams import closed_at_exit, program_ends
from ltd.decoding.statistics import Statistics
from ltd.parallel.leader import Side
from ltd.target.target import Target


class ParallelDecoder(Decoder):
    """A `Decoder` of which every process of a run has one. All must make the same calls in the same order.

    The first process generates, with its own draft, policy, arguments and attributes; the others compute their parts of
    the target and return what the first one does, whatever their own arguments are.

    Args:
        side: this process's.
        target: its part of it.
        options: of `Decoder`; only the first process needs what decides.
    """

    def __init__(self, side: Side, target: Target, *arguments: Any, **options: Any) -> None:
        super().__init__(target, *arguments, **options)
        self._side = side

    def generate(self, *arguments: Any, **options: Any) -> Generation | list[Generation]:
        """See `Decoder`."""
        made: Generation | list[Generation] = self._side.once(
            "generate", partial(super().generate, *arguments, **options)
        )
        self.last_statistics = (made[0] if isinstance(made, list) else made).statistics
        return made

    def stream(self, *arguments: Any, **options: Any) -> Iterator[list[int]]:
        """See `Decoder`. Where one process closes it early, all must."""
        begun = self._side.once("stream", partial(super().stream, *arguments, **options), tell=lambda _: iter(()))
        return closed_at_exit(self._shared(begun))

    def _shared(self, news: Any) -> Generator[list[int], None, None]:
        """The new tokens of every cycle, in all processes; `news` are the first one's.

        After an error, which all have raised, there is nothing to be closed.
        """
        try:
            while (tokens := self._side.once("a stream's next", partial(next, news, None))) is not None:
                yield tokens
        except GeneratorExit:
            if not program_ends.is_set():
                self._close(news)
            raise
        self._close(news)

    def _close(self, news: Any) -> None:
        def closed() -> Statistics:
            news.close()
            return self.last_statistics

        self.last_statistics = self._side.once("a stream's end", closed)
