"""Numbers among the attributes of a config: whether they are such, and in range."""

from __future__ import annotations

import math

from ltd.common.argument_types import as_number, as_whole
from ltd.errors import InputError

MOST_SEED = 2**31 - 1  # of trainings: generators are seeded with multiples of a seed, which must fit too


def check_least(config: object, **least: int) -> None:
    """Raises InputError, which names it, unless every attribute named is a whole number of at least so much."""
    for name, bound in least.items():
        number = as_whole(getattr(config, name), name)
        if number < bound:
            raise InputError(f"{name} is {number}; it must be at least {bound}")


def check_between(config: object, **bounds: tuple[float, float]) -> None:
    """Raises InputError, which names it, unless every attribute named is a number from the first to the second."""
    for name, (low, high) in bounds.items():
        number = as_number(getattr(config, name), name)
        if not low <= number <= high:
            raise InputError(f"{name} is {getattr(config, name)}; it must be {low} … {high}")


def check_positive(config: object, *names: str) -> None:
    """Raises InputError, which names it, unless every attribute named is a finite number above 0."""
    for name in names:
        number = as_number(getattr(config, name), name)
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"{name} is {getattr(config, name)}; it must be a number above 0")


def check_seed(config: object) -> None:
    """Raises InputError unless the attribute seed is a whole number that a training can be seeded with."""
    check_least(config, seed=0)
    check_between(config, seed=(0, MOST_SEED))
