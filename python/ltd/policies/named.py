"""Policies by name, as users type them: `ddd`, or `ddd:floor=-0.5:size=6` with options."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ltd.errors import InputError
from ltd.policies.base import Policy
from ltd.policies.c2t import c2t
from ltd.policies.ddd import DDD
from ltd.policies.disco import disco
from ltd.policies.gammatune import GammaTune
from ltd.policies.specdecpp import specdecpp
from ltd.policies.static import Static
from ltd.policies.svip import SVIP

# What makes each policy: its parameters are the options. Their types must be among `READERS`.
NAMED: dict[str, Callable[..., Policy]] = {
    "eagle3": Static,
    "ddd": DDD,
    "svip": SVIP,
    "gammatune": GammaTune,
    "disco": disco,
    "specdecpp": specdecpp,
    "c2t": c2t,
}


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
    float: (read_float, "a number"),
    tuple[int, ...]: (read_integers, "whole numbers such as 5/7/9"),
    str: (read_text, "a text"),
    str | None: (read_text, "a text"),
    Path: (lambda text: Path(read_text(text)), "a path"),
}


def parse_policy(text: str) -> Policy:
    """The policy that `NAME` or `NAME:OPTION=VALUE:OPTION=VALUE…` names; options left out keep their defaults.

    Raises:
        InputError: no such name or option, an option given twice or left out that has no default, or a value that is
            malformed or out of range. The message says what there is.
    """
    name, *given = text.split(":")
    if name not in NAMED:
        raise InputError(f"there is no policy {name!r}; there are {', '.join(NAMED)}")
    parameters = options_of(name)
    values: dict[str, Any] = {}
    for part in given:
        option, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{part!r} in {text!r} is not of the form OPTION=VALUE")
        if option not in parameters:
            raise InputError(f"{name} has no option {option!r}; it has {', '.join(parameters)}")
        if option in values:
            raise InputError(f"{text!r} gives {option} twice; give it once")
        values[option] = read_value(name, parameters[option], value)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in values:
            raise InputError(f"{name} needs its option {option}: {name}:{option}=VALUE")
    return NAMED[name](**values)


def options_of(name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of what makes this policy, by name, with their types."""
    return inspect.signature(NAMED[name], eval_str=True).parameters


def read_value(name: str, parameter: inspect.Parameter, text: str) -> Any:
    """An option's value, or InputError saying what it must be."""
    read, wanted = READERS[parameter.annotation]
    try:
        return read(text)
    except ValueError:
        raise InputError(f"{name}'s {parameter.name} is {text!r}; it must be {wanted}") from None


def describe_policies() -> list[str]:
    """One line per policy, for help texts: its name, and its options with their defaults."""
    return [f"{name}: {', '.join(map(shown, options_of(name).values()))}" for name in NAMED]


def shown(parameter: inspect.Parameter) -> str:
    """OPTION=DEFAULT, as a user would type it, or OPTION=… where there is none."""
    default = parameter.default
    if default is parameter.empty:
        return f"{parameter.name}=…"
    return f"{parameter.name}={'/'.join(map(str, default)) if isinstance(default, tuple) else default}"
