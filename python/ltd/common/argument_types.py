"""Types of arguments. Python lets everything through, so they are looked at where they come in: what is wrong is then
told in a sentence, by the argument's name, instead of by whatever meets it first.

A number may also be NumPy's or a tensor, if it is one number. A truth value is not a number.
"""

from __future__ import annotations

import contextlib
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ltd.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = _SHORT.maxlong = 60


def wrong_type(name: str, value: object, wanted: str) -> InputError:
    """The error to raise: what is wrong, and what would be right."""
    shown = " ".join(_SHORT.repr(value).split())  # in one line
    return InputError(f"{name} is {shown}, but must be {wanted}")


def as_whole(value: Any, name: str) -> int:
    """A whole number as Python's own; InputError, which names it, if it is none."""
    plain = value if type(value) is int else _plain(value)
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    raise wrong_type(name, value, "a whole number")


def as_wholes(values: Any, name: str) -> tuple[int, ...]:
    """Whole numbers in anything that holds them, as Python's own; InputError if it holds something else."""
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable):
        raise wrong_type(name, values, "a list of whole numbers")
    try:
        return tuple(as_whole(value, f"a number in {name}") for value in values)
    except TypeError:  # a tensor without dimensions cannot be gone through, though it seems so
        raise wrong_type(name, values, "a list of whole numbers") from None


def as_number(value: Any, name: str) -> float:
    """A number as Python's own; InputError, which names it, if it is none."""
    plain = _plain(value)
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        with contextlib.suppress(OverflowError):
            return float(plain)
    raise wrong_type(name, value, "a number")


def as_truth(value: Any, name: str) -> bool:
    """True or False as Python's own; InputError, which names it, if it is neither."""
    plain = _plain(value)
    if isinstance(plain, bool):
        return plain
    raise wrong_type(name, value, "True or False")


def as_path(value: Any, name: str) -> str | Path:
    """A path as it was given; InputError, which names it, if it is none."""
    if isinstance(value, str | Path):
        return value
    if isinstance(value, os.PathLike):
        return Path(value)
    raise wrong_type(name, value, "a text or a Path")


def settle(owner: object, convert: Callable[[Any, str], Any], *names: str) -> None:
    """Puts what a function such as `as_whole` makes of attributes in their place, also in a frozen dataclass.

    What is kept is then Python's own, whatever it was given as; raises what the function raises.
    """
    for name in names:
        object.__setattr__(owner, name, convert(getattr(owner, name), name))


def check_offers(value: Any, methods: Iterable[str], name: str, wanted: str) -> None:
    """Raises InputError unless an object has all that will be asked of it; a class is not an object of it."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise wrong_type(name, value, wanted)


# --- what objects of others answer, in the midst of a cycle: where nothing is wrong, one look has to do ---


def truth_from(owner: object, method: str, answer: Any) -> bool:
    """`as_truth` of what a method returned; the message names its class."""
    return answer if type(answer) is bool else as_truth(answer, _answer_of(owner, method))


def whole_from(owner: object, method: str, answer: Any) -> int:
    """`as_whole` of what a method returned; the message names its class."""
    return answer if type(answer) is int else as_whole(answer, _answer_of(owner, method))


def _answer_of(owner: object, method: str) -> str:
    return f"what {type(owner).__name__}.{method} answers"


def _plain(value: Any) -> Any:
    """One number of NumPy or torch as Python's own; anything else as it is."""
    shape = getattr(value, "shape", None)
    return value.item() if isinstance(shape, tuple) and math.prod(shape) == 1 else value
