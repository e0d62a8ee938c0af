"""What the settings of two runs differ in, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Settings that nobody gave: hashes and other marks of what stood behind what was given.
MARKS = {
    "draft_sha256": "another draft head",
    "head_sha256": "another draft head",
    "sampling_sha256": "other factors for sampled text beside its draft head",
    "text_scores_sha256": "other scores of looked-up tokens",
    "chain_sha256": "another chain draft",
    "draft_hash": "another chain draft",
    "policies_sha256": "other policies or networks behind its methods",
    "networks": "other trained networks",
    "start_sha256": "another policy to begin with",
    "partner": "another policy beside the one in training",
    "questions": "other questions",
    "traces": "other traces",
    "traces_and_latencies": "other traces or latencies",
    "format": "another format of its files",
}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first difference between the settings of a run and this one's; None if there is none.

    What the user gave comes before the marks of what it stood for.

    Args:
        before: of the run, as JSON values.
        now: this one's.

    Returns:
        the end of a sentence that begins with "holds a run" or the like.
    """
    for name in sorted(before.keys() | now.keys(), key=lambda name: (name in MARKS, name)):
        old, new = before.get(name), now.get(name)
        if is_same(old, new):
            continue
        if name in MARKS:
            return f"with {MARKS[name]} than this one's"
        return f"with {name} {old!r}, and this one has {new!r}"
    return None


def is_same(before: Any, now: Any) -> bool:
    """Whether two values of a setting are one; a folder's name may end with a slash, which shells like to add."""
    return bool(_without_slash(before) == _without_slash(now))


def _without_slash(value: Any) -> Any:
    return value.rstrip("/") or value if isinstance(value, str) else value
