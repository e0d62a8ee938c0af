"""Trainings of tiny targets: what is decoded with heads on their way is cut to a few tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ltd.training.eagle3 import trials


@pytest.fixture(scope="session", autouse=True)
def few_trials() -> Iterator[None]:
    """As many questions and tokens as show that they are decoded at all."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"QUESTIONS": 2, "NEW_TOKENS": 6, "FEW_QUESTIONS": 1, "FEW_TOKENS": 4}.items():
            patch.setattr(trials, name, value)
        yield
