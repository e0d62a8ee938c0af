"""Samples and settings of an evaluation that never ran."""

from __future__ import annotations

from typing import Any


def sample(task: str, question: str, method: str, gains: list[int], seconds: float, **more: Any) -> dict[str, Any]:
    """A sample as the journal holds it; the time goes half to draft, half to verify."""
    return {
        "task": task,
        "question_id": question,
        "turn": 0,
        "method": method,
        "gains": gains,
        "cycles": len(gains),
        "decode_seconds": seconds,
        "depths": [2 * (method != "none")] * len(gains),
        "sizes": [4 * (method != "none")] * len(gains),
        "seconds": {"prefill": 0.5, "draft": seconds / 4, "verify": 5 * seconds / 8, "commit": seconds / 8},
        "identical_to_none": None if method == "none" else True,
        **more,
    }


SETTINGS = {
    "tasks": ["a", "b"],
    "methods": ["none", "eagle3"],
    "temperature": 0.0,
    "seed": 0,
    "target": None,
    "draft": None,
    "dtype": "float32",
    "limit": None,
    "max_new_tokens": 8,
    "processor": "an abacus",
    "threads": 2,
    "torch": "2",
}
