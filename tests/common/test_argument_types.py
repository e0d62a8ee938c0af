"""What is taken as a number, a truth value, a path; everything else is a sentence that names the argument."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltd.common.argument_types import (
    as_number,
    as_path,
    as_truth,
    as_whole,
    as_wholes,
    check_offers,
    truth_from,
    whole_from,
)
from ltd.errors import InputError


class Rule:
    """Whose answers are wrong."""


NO_NUMBERS = ["8", b"8", None, [8], (8,), {8: 8}, int, np.array([1, 2]), torch.zeros(0), torch.zeros(2, 2), 1j, True,
              np.bool_(True), torch.tensor(True)]  # fmt: skip


@given(st.integers(-(2**62), 2**62))
def test_whole_numbers_in_every_form(number: int) -> None:
    forms: list[Any] = [number, np.int64(number), np.array(number), np.array([number]), torch.tensor(number),
                        torch.tensor([number])]  # fmt: skip
    for form in forms:
        for found in (as_whole(form, "n"), whole_from(object(), "size", form)):
            assert type(found) is int and found == number
    lists: list[Any] = [forms, tuple(forms), iter(forms), {number}, frozenset([number]), np.array([number] * 3),
                        torch.tensor([number] * 3), range(number, number + 1)]  # fmt: skip
    for several in lists:
        found = as_wholes(several, "n")
        assert set(found) == {number} and all(type(one) is int for one in found)


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, 8.0, np.float64(8), torch.tensor(8.0)])
def test_what_is_no_whole_number(wrong: Any) -> None:
    for call in (lambda: as_whole(wrong, "max"), lambda: as_wholes([1, wrong], "max")):
        with pytest.raises(InputError, match=r"max is .*, but must be a whole number$"):
            call()
    with pytest.raises(InputError, match=r"^what Rule\.size answers is .*, but must be a whole number$"):
        whole_from(Rule(), "size", wrong)


@pytest.mark.parametrize("wrong", [5, "ab", b"ab", {2: 3}, None, torch.tensor(2), np.array(2)])
def test_what_is_no_list_of_whole_numbers(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^ends is .*, but must be a list of whole numbers$"):
        as_wholes(wrong, "ends")


@given(st.floats(allow_nan=False, width=32))
def test_numbers_in_every_form(number: float) -> None:
    forms: list[Any] = [number, np.float32(number), np.float64(number), np.array([number]), torch.tensor(number)]
    for form in forms:
        found = as_number(form, "x")
        assert type(found) is float and found == number
    assert as_number(3, "x") == 3.0


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, 10**400])
def test_what_is_no_number(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^heat is .*, but must be a number$"):
        as_number(wrong, "heat")


@pytest.mark.parametrize("truth", [False, True])
def test_truth_values_in_every_form(truth: bool) -> None:
    forms: list[Any] = [truth, np.bool_(truth), np.array([truth]), torch.tensor(truth), torch.tensor([truth])]
    for form in forms:
        assert as_truth(form, "x") is truth is truth_from(object(), "more", form)


@pytest.mark.parametrize("wrong", [1, 0, 2.5, None, "x", "False", [], torch.tensor(1), torch.tensor([True, True])])
def test_what_is_no_truth_value(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^chat is .*, but must be True or False$"):
        as_truth(wrong, "chat")
    with pytest.raises(InputError, match=r"^what Rule\.more answers is .*, but must be True or False$"):
        truth_from(Rule(), "more", wrong)


class Place(os.PathLike[str]):
    def __fspath__(self) -> str:
        return "there"


def test_paths() -> None:
    assert (as_path("a", "x"), as_path(Path("a"), "x"), as_path(Place(), "x")) == ("a", Path("a"), Path("there"))
    for wrong in (5, b"a", None, ["a"], 2.5):
        with pytest.raises(InputError, match=r"^target is .*, but must be a text or a Path$"):
            as_path(wrong, "target")


def test_what_an_object_offers() -> None:
    check_offers("a", ("upper", "lower"), "x", "a text")
    wrong: list[Callable[[], None]] = [
        lambda: check_offers(5, ("upper",), "x", "a text"),
        lambda: check_offers("a", ("upper", "under"), "x", "a text"),
        lambda: check_offers(str, ("upper",), "x", "a text"),
    ]
    for call in wrong:
        with pytest.raises(InputError, match=r"^x is .*, but must be a text$"):
            call()


def test_what_is_long_is_cut_short() -> None:
    for wrong in ("a" * 10_000, list(range(10_000)), torch.zeros(10_000), {number: number for number in range(9999)}):
        with pytest.raises(InputError) as raised:
            as_whole(wrong, "n")
        assert len(str(raised.value)) < 200
