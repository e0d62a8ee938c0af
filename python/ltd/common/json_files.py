"""JSON that others may have written or damaged: read and compared with the types that are expected, in one place."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ltd.common.files import read_content
from ltd.errors import InputError

T = TypeVar("T")
MOST_SHOWN = 60  # letters of a wrong value
# By pydantic's name of what is wrong: what a value must be; braces stand for what it says beside the name.
WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "dataclass_type", "model_type"), "an object"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "int_parsing_size": "a smaller whole number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "none_required": "null",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}

NOTHING_ELSE = ConfigDict(extra="forbid")
"""As `__pydantic_config__` of a dataclass: what it has no part for is refused, instead of left out."""
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's names for such a part
UNKNOWN_SAID = "holds what this version of ltd does not know"

Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A whole number that tensors can hold."""
Count = Annotated[int, Field(ge=1, lt=2**31)]
"""A size: at least 1, and no more than an operator takes."""
Real = Annotated[float, Field(allow_inf_nan=False)]
"""A number."""


def read_json(file: Path, kind: type[T], what: str | None = None) -> T:
    """What a JSON file holds.

    Args:
        file: to read.
        kind: what it must hold: any type that has annotations for all its parts, such as a dataclass, a TypedDict or
            `dict[str, Whole]`. `dict[str, Any]` is an object whose parts somebody else checks.
        what: it is, for messages; None is the file's name.

    Raises:
        InputError: it cannot be read, is no JSON, or holds something else; the message begins with `what`.
    """
    what = file.name if what is None else what
    return parse_json(read_content(file, what), kind, what)


def parse_json(content: bytes | str, kind: type[T], what: str) -> T:
    """What a text in JSON holds.

    Args:
        content: the text; a byte order mark before it is skipped.
        kind: see `read_json`.
        what: it is, for messages.

    Raises:
        InputError: it is no JSON, or holds something else.
    """
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    with _said_of(what):
        values: T = _reader(kind).validate_json(content.removeprefix(codecs.BOM_UTF8), strict=True)
        return values


def check_values(values: Any, kind: type[T], what: str) -> T:
    """What was read from JSON before, as `parse_json` checks it; arguments and errors as there."""
    with _said_of(what):
        checked: T = _reader(kind).validate_python(values, strict=True)
        return checked


def check_known(values: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises InputError if something has parts whose names are not known; the message begins with `what`."""
    if unknown := set(values) - set(known):
        raise InputError(f"{what} {UNKNOWN_SAID}: {', '.join(sorted(unknown))}")


@contextmanager
def _said_of(what: str) -> Iterator[None]:
    """Says what is wrong with something, which the message begins with."""
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{what} {_reason(error)}") from None


_reader: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, or all that is not known, as the rest of a sentence."""
    errors = error.errors(include_url=False)
    known = [each for each in errors if each["type"] not in UNKNOWN]
    if not known:
        names = ", ".join(".".join(map(str, each["loc"])) for each in errors)
        return f"{UNKNOWN_SAID}: {names}"
    first = known[0]
    if first["type"] == "json_invalid":
        return f"is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"lacks {place}"
    if first["type"] in ("dict_type", "dataclass_type") and not place:
        return "holds no JSON object"
    shown = repr(first["input"])
    shown = shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"
    said = f"says {place}{' = ' if place else ''}{shown}"
    if (wanted := WANTED.get(first["type"])) is not None:
        return f"{said}, but it must be {wanted.format(**first.get('ctx', {}))}"
    return f"{said}: {message[:1].lower()}{message[1:]}"
