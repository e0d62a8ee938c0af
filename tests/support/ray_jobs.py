"""What workers of Ray do in tests: modules that they import as this process does.

Torch is imported by what needs it alone: most workers square numbers, and each that dies is followed by another.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltd.errors import InputError

if TYPE_CHECKING:
    from ltd.decoding.decoder import Decoder


def die_once(mark: Path) -> None:
    """Kills this process in the middle of what it does, unless one has died of the same mark."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Squares:
    """Squares numbers, each with the worker's process; some numbers are hard.

    Attributes:
        marks: a folder; the worker of a number in `deadly` dies once for each.
        deadly: numbers whose worker dies once.
        fatal: a number whose worker dies every time.
        wrong: a number that is refused.
        broken: a number over which there is an error of ours.
        warning: what opening warns of.
        files: that must be alike.
    """

    marks: Path
    deadly: tuple[int, ...] = ()
    fatal: int | None = None
    wrong: int | None = None
    broken: int | None = None
    warning: str | None = None
    files: tuple[Path, ...] = ()

    def open(self) -> Callable[[int], Iterator[tuple[int, int]]]:
        if self.warning is not None:
            warnings.warn(self.warning, stacklevel=1)
        return self.square

    def square(self, number: int) -> Iterator[tuple[int, int]]:
        yield number * number, os.getpid()
        if number in self.deadly:
            die_once(self.marks / str(number))
        if number == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.wrong:
            raise InputError(f"{number} cannot be squared")
        if number == self.broken:
            raise ZeroDivisionError("of ours")
        yield number, os.getpid()


def load_mortal(*arguments: Any, mark: str, call: int, **options: Any) -> Decoder:
    """`ltd.load`, with a decoder whose worker dies once, in its answer of this number, behind the prompt."""
    from ltd.loading import load

    decoder = load(*arguments, **options)
    run, calls = decoder.run, 0

    def mortal(request: Any) -> Iterator[Any]:
        nonlocal calls
        calls += 1
        for news in run(request):
            if calls == call:
                die_once(Path(mark))
            yield news

    decoder.run = mortal  # type: ignore[method-assign]
    return decoder
