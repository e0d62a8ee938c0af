"""What a generation did and how long each part took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from ltd.engine.events import DeviceEvent

PARTS = ("prefill", "lookup", "draft", "policy", "select", "verify", "accept", "commit", "other")
SOURCES = ("draft", "text", "both")  # who proposed a candidate, by what `DraftTree.sources` says of it: 1, 2, 3


@dataclass(slots=True)
class Statistics:
    """Counts and times of one call.

    The first token of each answer is the prefill's; the rates count the tokens after it and the time after the prefill.

    Attributes:
        prompt_tokens, new_tokens: summed over the sequences of the call.
        reused_tokens: of the prompts, that were not read, as an earlier text began with them.
        sequences: how many there were.
        seconds: by part; "other" is the bookkeeping between cycles. What is timed from outside has one "whole" instead.
        depths, sizes: what the policy chose, per cycle (for the whole batch); the depth is -1 where the draft was not
            asked.
        gains: tokens gained, per cycle and sequence, as far as they became part of the answer.
        sources: accepted candidates, as far as they became part of the answer, by who proposed them: the draft, the
            text so far, or both. Only where tokens are looked up; what only filled up a batch's trees is in none.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    sequences: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    depths: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    gains: list[int] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    reused_tokens: int = 0

    def add_sources(self, counts: list[int]) -> None:
        """Counts accepted candidates by who proposed them, in the order of `SOURCES`."""
        for name, count in zip(SOURCES, counts, strict=True):
            self.sources[name] = self.sources.get(name, 0) + count

    def add_news(self, news: dict[int, list[int]]) -> None:
        """Counts the new tokens of a cycle; the first call's are the prefill's and no gain of a cycle."""
        if self.new_tokens > 0:
            self.gains.extend(map(len, news.values()))
        self.new_tokens += sum(map(len, news.values()))

    @property
    def cycles(self) -> int:
        """Cycles, counted per sequence."""
        return len(self.gains)

    @property
    def acceptance_length(self) -> float:
        """τ: mean tokens gained per cycle, the target's own included; 0 if there was no cycle."""
        return sum(self.gains) / len(self.gains) if self.gains else 0.0

    @property
    def decode_seconds(self) -> float:
        """All time but the prefill's."""
        return sum(self.seconds.values()) - self.seconds["prefill"]

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, over the time after the prefill; 0 if there was no cycle."""
        return sum(self.gains) / self.decode_seconds if self.gains else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "new_tokens": self.new_tokens,
            "sequences": self.sequences,
            "cycles": self.cycles,
            "acceptance_length": self.acceptance_length,
            "tokens_per_second": self.tokens_per_second,
            "decode_seconds": self.decode_seconds,
            "seconds": dict(self.seconds),
            "depths": list(self.depths),
            "sizes": list(self.sizes),
            "gains": list(self.gains),
            "sources": dict(self.sources),
        }


class Stopwatch:
    """Adds the time since the last lap to a part of the statistics.

    Without waiting for a GPU: there the laps are points in what it was told to do, and their times, which are the
    device's own, become known later, those of a cycle in the next one at the latest.

    Args:
        statistics: of the call.
        device: that works.
        waits: whether every lap waits for a GPU instead, so that its time is known at once and to the host.

    Attributes:
        seconds: the statistics', by part.
        last: when the part began that is going on; for a watch that knows at once.
    """

    def __init__(self, statistics: Statistics, device: torch.device, waits: bool = False) -> None:
        self.seconds = statistics.seconds
        self.device, self.synchronise = device, waits and device.type == "cuda"
        self._laps: DeviceLaps | None = None
        if device.type == "cuda" and not waits:
            self._laps = DeviceLaps(self.seconds, partial(DeviceEvent, device, timed=True))
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Ends a part that began at the last lap or skip."""
        if self._laps is not None:
            self._laps.lap(part)
            return
        if self.synchronise:
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def skip(self) -> None:
        """Leaves out the time since the last lap (it was the caller's)."""
        if self._laps is not None:
            self._laps.lap(None)
            return
        self.last = time.perf_counter()

    def settle(self) -> None:
        """Waits, if need be, until all laps are in the statistics; at the end of a call."""
        if self._laps is not None:
            self._laps.settle(wait=True)


class Moment(Protocol):
    """A point in what a device was told to do, as a timed `DeviceEvent` is one."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the device has passed it."""

    def synchronize(self) -> None:
        """Waits until it has."""

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds from here to a later one."""


class DeviceLaps:
    """Laps as moments of a device, which are counted once it has passed them.

    Args:
        seconds: by part; added to.
        new_moment: makes one.
    """

    def __init__(self, seconds: dict[str, float], new_moment: Callable[[], Moment]) -> None:
        self.seconds, self.new_moment = seconds, new_moment
        self.spare: list[Moment] = []
        self.last = self.now()
        self.waiting: deque[tuple[str | None, Moment]] = deque()

    def now(self) -> Moment:
        """The present, as the device will see it."""
        moment = self.spare.pop() if self.spare else self.new_moment()
        moment.record()
        return moment

    def lap(self, part: str | None) -> None:
        """Ends a part; None is time that is nobody's."""
        self.waiting.append((part, self.now()))
        self.settle()

    def settle(self, wait: bool = False) -> None:
        """Counts the laps that the device has passed; all, where it may be waited for."""
        if wait and self.waiting:
            self.waiting[-1][1].synchronize()
        while self.waiting and self.waiting[0][1].query():
            part, moment = self.waiting.popleft()
            if part is not None:
                self.seconds[part] += self.last.elapsed_time(moment) / 1000.0
            self.spare.append(self.last)
            self.last = moment
