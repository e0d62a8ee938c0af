"""Errors of other libraries as parts of our sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltd.common.foreign_errors import reason_of


def because(error: Exception, cause: Exception) -> Exception:
    """The error as if raised from the cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a sentence"), "a sentence"),
        (ValueError("a sentence\nand more"), "a sentence"),
        (ValueError(), "ValueError"),
        (KeyError("nope"), "'nope' is missing, or is no name that is known there"),
        (KeyError("There is no item named 'data' in the archive"), "There is no item named 'data' in the archive"),
        (ZeroDivisionError("integer modulo by zero"), "one of its numbers is 0 or too large (integer modulo by zero)"),
        (TypeError("'<' not supported"), "one of its values is of the wrong kind ('<' not supported)"),
        (ValueError("Validation error for field 'x':\n    TypeError: Field 'x' expected int"),
         "Validation error for field 'x': TypeError: Field 'x' expected int"),
        (because(ValueError("Validation error for field 'x':\n    TypeError"), TypeError("Field 'x' expected int")),
         "one of its values is of the wrong kind (Field 'x' expected int)"),
        (because(ValueError("Class validation error:"), because(ValueError("Inner:"), KeyError("nope"))),
         "'nope' is missing, or is no name that is known there"),
    ],
)  # fmt: skip
def test_what_is_said(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@given(st.text(), st.sampled_from([ValueError, KeyError, TypeError, OverflowError, RuntimeError]))
def test_it_is_one_line_and_never_nothing(message: str, kind: type[Exception]) -> None:
    reason = reason_of(kind(message))
    assert reason.strip() and len(reason.splitlines()) == 1
