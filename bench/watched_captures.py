"""What a decoder has recorded, and whether that is what runs.

Without it, that cycles go on more slowly without CUDA graphs is a warning alone, and that a part is called which is
recorded under another name shows nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ltd.engine.captures import CaptureReport, Captures, Part, Result
from ltd.target.target import Target


@dataclass
class CountedCaptures:
    """`Captures` that count what they are asked to run, once they have recorded something.

    Where they record, everything that a cycle asks for is to be found from then on: requests record before their texts
    begin, sizes and gains are rounded up to recorded ones, and whoever makes recordings useless, by cutting a batch
    down, lets them be forgotten.

    Args:
        captures: which do it.

    Attributes:
        replays: how often something was found; missed: how often a part was not, and so was called.
    """

    captures: Captures
    replays: int = 0
    missed: Counter[Part] = field(default_factory=Counter)
    _recorded: set[Part] = field(default_factory=set)

    @property
    def records(self) -> bool:
        """See `Captures`."""
        return self.captures.records

    @property
    def report(self) -> CaptureReport | None:
        """What recording cost; None where nothing can be recorded."""
        return getattr(self.captures, "report", None)

    def record(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`."""
        result = self.captures.record(key, function)
        if self.captures.records:
            self._recorded.add(key)
        return result

    def run(self, key: Part, function: Callable[[], Result]) -> Result:
        """See `Captures`."""
        if key in self._recorded:
            self.replays += 1
        elif self._recorded:
            self.missed[key] += 1
        return self.captures.run(key, function)

    def forget(self) -> None:
        """See `Captures`."""
        self._recorded.clear()
        self.captures.forget()


class WatchedCaptures:
    """Keeps a target's recordings as they are made; those of a workspace that was closed too.

    Args:
        target: whose requests have not begun.
    """

    def __init__(self, target: Target) -> None:
        self.made: list[CountedCaptures] = []
        self._make = target.captures
        target.captures = self._new  # type: ignore[method-assign]

    def _new(self) -> CountedCaptures:
        self.made.append(CountedCaptures(self._make()))
        return self.made[-1]

    def reports(self) -> list[dict[str, Any]]:
        """The `CaptureReport` of each that can record, with its replays and what it missed, for JSON."""
        return [
            {
                **asdict(captures.report),
                "replays": captures.replays,
                "missed": {str(part): count for part, count in captures.missed.items()},
            }
            for captures in self.made
            if captures.report is not None
        ]

    def fault(self) -> str | None:
        """Why this is not what a GPU must do: a recording has failed, there is none, or others ran; None if it is."""
        reports = self.reports()
        failures = [report["failure"] for report in reports if report["failure"] is not None]
        if failures:
            return f"a part of a cycle could not be captured: {failures[0]}"
        if not reports or len(reports) < len(self.made) or not all(report["graphs"] for report in reports):
            return "no CUDA graph was captured for some of the requests"
        missed = {part: count for report in reports for part, count in report["missed"].items()}
        if missed:
            return f"parts of cycles were called, as they are not recorded under these names: {', '.join(missed)}"
        if not all(report["replays"] for report in reports):
            return "the CUDA graphs of some of the requests were never replayed"
        return None
