"""What the name of a method says, as a user types it: its label, its policy and width, the files it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ltd.common.assets import shipped_baseline
from ltd.common.files import expand_user
from ltd.common.named_options import numbers_of, options_of, split_option, whole_number
from ltd.decoding.decoder import PolicyChoice
from ltd.errors import InputError
from ltd.evaluation.method_table import (
    BASELINE,
    BOTH,
    FILES,
    LOOKED_UP,
    PAPER,
    PAPER_METHODS,
    STATIC,
    WIDTH,
    WORDS,
    rows,
)
from ltd.policies import Both, Lookup, Policy, Static
from ltd.policies.baselines.files import NETWORKS, SHIPPED
from ltd.policies.by_name import NAMED, parse_policy
from ltd.policies.cycle_costs_file import costs_file


def read_policy(name: str) -> PolicyChoice:
    """The policy of a tree method; None if it depends on the decoder.

    Raises:
        InputError: there is no such method, an option or number of it is wrong, or its file cannot be used.
    """
    kind, _, rest = name.partition(":")
    if name in WORDS:
        return WORDS[name].make()
    if kind in NAMED and not rest[:1].isdecimal():
        return parse_policy(name)
    if kind in FILES:
        return FILES[kind].make(expand_user(rest))
    numbers, width = split_width(kind, rest)
    makers: dict[str, tuple[Callable[..., Policy], int]]
    makers = {STATIC: (Static, 2), LOOKED_UP: (Lookup, 1), BOTH: (Both, 3)}
    make, count = makers.get(kind, (Static, 0))
    counts = numbers_of(numbers)
    if counts is None or len(counts) != count:
        raise InputError(
            f"unknown method {name!r}; use one of {', '.join(row.method for row in rows())} (ltd methods explains them)"
        )
    tree = make(*counts)
    return tree if width is None else replace(tree, width=width)  # type: ignore[type-var]


def split_width(kind: str, numbers: str) -> tuple[list[str], int | None]:
    """The numbers of a fixed tree as they were typed, and the beam width behind them, if there is one.

    Raises:
        InputError: it is given twice, or is no whole number.
    """
    left, width = split_option(numbers, WIDTH) if kind in (STATIC, BOTH) else (numbers, None)
    number = None if width is None else whole_number(width)
    if width is not None and number is None:
        raise InputError(f"{kind}'s {WIDTH} is {width!r}; it must be a whole number")
    return left.split(":"), number


def option_files(name: str) -> list[Path]:
    """The files that a policy's name means: of the trained network in the folder of its option `model`, or of the
    costs in its option `costs`, or the shipped ones of these.
    """
    kind, *options = name.split(":")
    given = dict(option.split("=", 1) for option in options if option.startswith(("model=", "costs=")))
    if kind in NAMED and "costs" in options_of(NAMED[kind].make):
        return [costs_file(given.get("costs", SHIPPED))]
    model = given.get("model", SHIPPED)
    if model != SHIPPED:
        return network_files(expand_user(model))
    return network_files(shipped_baseline(kind)) if kind in NETWORKS else []


def network_files(folder: Path) -> list[Path]:
    """The files of a trained network's folder."""
    return sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors"))


def split_label(name: str) -> tuple[str, str]:
    """The label that a method has in tables, and the method: of `LABEL=METHOD`, or both the same."""
    label, equals, spec = name.partition("=")
    return (label, spec) if equals and ":" not in label else (name, name)


def plain_among(names: Iterable[str]) -> str | None:
    """The first of the methods that is plain decoding, whatever its label; None if none is."""
    return next((name for name in names if split_label(name)[1] == BASELINE), None)


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with "paper" replaced by the paper's rows."""
    return tuple(name for given in names for name in (PAPER_METHODS if given == PAPER else (given,)))
