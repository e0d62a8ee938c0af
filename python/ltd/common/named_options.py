"""Things by name with options, as users type them: `ddd`, or `ddd:floor=-0.5:size=6`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ltd.errors import InputError

T = TypeVar("T")


MOST_DIGITS = 18  # of a whole number; Python refuses to read thousands of them with an error of its own


def whole_number(text: str) -> int | None:
    """The number that some decimal digits are; None for any other text, and for more digits than anything here has."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def numbers_of(texts: Iterable[str]) -> tuple[int, ...] | None:
    """The numbers that some texts are, see `whole_number`; None if any is none."""
    numbers = [whole_number(text) for text in texts]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) else None


def read_float(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def read_integers(text: str) -> tuple[int, ...]:
    """Whole numbers with slashes between."""
    return tuple(int(part) for part in text.split("/"))


def read_text(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError
    return text


# By type: how an option's text is read, and what the text must be.
READERS: Mapping[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    int | None: (int, "a whole number"),
    float: (read_float, "a number"),
    tuple[int, ...]: (read_integers, "whole numbers such as 5/7/9"),
    str: (read_text, "a text"),
    Path: (lambda text: Path(read_text(text)), "a path"),
}


@dataclass(frozen=True, slots=True)
class Named(Generic[T]):
    """What a name stands for.

    Attributes:
        make: makes it; the parameters are the options, and have types that are among `READERS`.
        decides: what it decides, for tables.
        rule: how, in a line.
    """

    make: Callable[..., T]
    decides: str
    rule: str

    @property
    def options(self) -> str:
        """The options with their defaults, as a user would type them."""
        return ":".join(map(shown, options_of(self.make).values()))


def make_named(text: str, table: Mapping[str, Named[T]], what: str, others: Sequence[str] = ()) -> T:
    """What `NAME` or `NAME:OPTION=VALUE:OPTION=VALUE…` names; options left out keep their defaults.

    Args:
        text: as it was typed.
        table: by name.
        what: they make, for messages.
        others: options that may be given too, and are read before this is called; for messages.

    Raises:
        InputError: no such name or option, an option given twice or left out that has no default, or a value that is
            malformed or out of range. The message says what there is.
    """
    name, *given = text.split(":")
    if name not in table:
        raise InputError(f"there is no {what} {name!r}; there are {', '.join(table)}")
    parameters = options_of(table[name].make)
    values: dict[str, Any] = {}
    for part in given:
        option, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{part!r} in {text!r} is not of the form OPTION=VALUE")
        if option not in parameters:
            raise InputError(
                f"{name} has no option {option!r}; it has {', '.join(dict.fromkeys([*parameters, *others])) or 'none'}"
            )
        if option in values:
            raise InputError(f"{text!r} gives {option} twice; give it once")
        values[option] = read_value(name, parameters[option], value)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in values:
            raise InputError(f"{name} needs its option {option}: {name}:{option}=VALUE")
    return table[name].make(**values)


def split_option(text: str, option: str) -> tuple[str, str | None]:
    """What was typed, without one of its options, and the value that this has; None where it is not given.

    Args:
        text: as it was typed. option: its name.

    Raises:
        InputError: it is given twice.
    """
    parts, typed = text.split(":"), f"{option}="
    values = [part.removeprefix(typed) for part in parts if part.startswith(typed)]
    if len(values) > 1:
        raise InputError(f"{text!r} gives {option} twice; give it once")
    return ":".join(part for part in parts if not part.startswith(typed)), values[0] if values else None


def options_of(maker: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of what makes something, by name, with their types."""
    return inspect.signature(maker, eval_str=True).parameters


def read_value(name: str, parameter: inspect.Parameter, text: str) -> Any:
    """An option's value, or InputError saying what it must be."""
    read, wanted = READERS[parameter.annotation]
    try:
        return read(text)
    except ValueError:
        raise InputError(f"{name}'s {parameter.name} is {text!r}; it must be {wanted}") from None


def shown(parameter: inspect.Parameter) -> str:
    """OPTION=DEFAULT, as a user would type it, or OPTION=… where there is none or it is not a fixed one."""
    default = parameter.default
    if default is parameter.empty or default is None:
        return f"{parameter.name}=…"
    return f"{parameter.name}={'/'.join(map(str, default)) if isinstance(default, tuple) else default}"
