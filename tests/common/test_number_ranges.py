"""Numbers of configs: what is none, or out of range, is one sentence that names the attribute."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from ltd.common.number_ranges import MOST_SEED, check_between, check_least, check_positive, check_seed
from ltd.errors import InputError

Check = Callable[[SimpleNamespace], None]


def config(value: object) -> SimpleNamespace:
    return SimpleNamespace(rows=2, share=0.5, seed=value, number=value)


def least(of: SimpleNamespace) -> None:
    check_least(of, rows=1, number=3)


def between(of: SimpleNamespace) -> None:
    check_between(of, share=(0, 1), number=(0.25, 2))


def positive(of: SimpleNamespace) -> None:
    check_positive(of, "rows", "number")


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (least, [3, 4, np.int64(3), 10**9]),
        (between, [0.25, 1, 2, np.float32(1.5)]),
        (positive, [1e-300, 1, 7.5]),
        (check_seed, [0, MOST_SEED]),
    ],
)
def test_what_is_in_range_passes(check: Check, values: list[object]) -> None:
    for value in values:
        check(config(value))


@pytest.mark.parametrize(
    ("check", "value", "sentence"),
    [
        (least, 2, "number is 2; it must be at least 3"),
        (least, 3.0, "number is 3.0, but must be a whole number"),
        (least, True, "number is True, but must be a whole number"),
        (least, "3", "number is '3', but must be a whole number"),
        (between, 0.2, "number is 0.2; it must be 0.25 … 2"),
        (between, math.nan, "number is nan; it must be 0.25 … 2"),
        (between, None, "number is None, but must be a number"),
        (positive, 0, "number is 0; it must be a number above 0"),
        (positive, math.inf, "number is inf; it must be a number above 0"),
        (positive, math.nan, "number is nan; it must be a number above 0"),
        (positive, "soon", "number is 'soon', but must be a number"),
        (check_seed, -1, "seed is -1; it must be at least 0"),
        (check_seed, MOST_SEED + 1, f"seed is {MOST_SEED + 1}; it must be 0 … {MOST_SEED}"),
        (check_seed, 0.0, "seed is 0.0, but must be a whole number"),
    ],
)
def test_what_is_not_is_said(check: Check, value: object, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        check(config(value))
    assert str(refused.value) == sentence
