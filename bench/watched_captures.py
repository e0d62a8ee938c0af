"""What a decoder has recorded: without it, that cycles go on more slowly without CUDA graphs is a warning alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ltd.engine.captures import Captures
from ltd.target.target import Target


class WatchedCaptures:
    """Keeps a target's recordings as they are made; those of a workspace that was closed too.

    Args:
        target: whose requests have not begun.
    """

    def __init__(self, target: Target) -> None:
        self.made: list[Captures] = []
        self._make = target.captures
        target.captures = self._new  # type: ignore[method-assign]

    def _new(self) -> Captures:
        self.made.append(self._make())
        return self.made[-1]

    def reports(self) -> list[dict[str, Any]]:
        """The `CaptureReport` of each that can record, for JSON."""
        found = (getattr(captures, "report", None) for captures in self.made)
        return [asdict(report) for report in found if report is not None]

    def fault(self) -> str | None:
        """Why this is not what a GPU must do: a recording has failed, or there is none; else None."""
        reports = self.reports()
        failures = [report["failure"] for report in reports if report["failure"] is not None]
        if failures:
            return f"a part of a cycle could not be captured: {failures[0]}"
        if not reports or len(reports) < len(self.made) or not all(report["graphs"] for report in reports):
            return "no CUDA graph was captured for some of the requests"
        return None
