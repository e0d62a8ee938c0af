"""What the tests of several benchmarks share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where it is not installed."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
