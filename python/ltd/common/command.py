"""What every command line refuses before it runs: flags that contradict each other, and empty values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperOption

from ltd.common.workers import LOCAL
from ltd.errors import InputError

VALUE_IF_ALONE = {"--ray": LOCAL}  # what options mean that need no value, which typer does not know


class CheckedCommand(TyperCommand):
    """A command whose options are looked at as they were typed.

    An empty path would otherwise be the current folder, and of two contradicting flags the last would count.

    Attributes:
        takes_empty: whether an empty value is as good as none, for options that may be left out.
    """

    takes_empty: ClassVar[bool] = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as usual, after the checks; a usage error without a context gets this one, which names the command.

        Raises:
            InputError: an option is empty, or one of two flags was given beside the other.
        """
        args = with_values(args, VALUE_IF_ALONE)
        try:
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for option in self.get_params(ctx):
                if isinstance(option, TyperOption):
                    check_opposites(option, order)
                    if option.required or not self.takes_empty:
                        check_empty(option, values.get(str(option.name)))
            return super().parse_args(ctx, args)
        except Exception as error:
            usage: Any = error
            if getattr(usage, "ctx", self) is None:  # of typer's parser, which does not say where
                usage.ctx = ctx
            raise


def with_values(args: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words of a command line, with a value behind options that have none: at the end, or before another option."""
    found: list[str] = []
    for word, following in zip_longest(args, args[1:], fillvalue="-"):
        found.append(word)
        if word in values and following.startswith("-"):
            found.append(values[word])
    return found


def check_opposites(option: TyperOption, order: Sequence[Any]) -> None:
    """Raises InputError if a flag and its opposite are both in the order in which the parameters were typed."""
    if option.secondary_opts and sum(typed is option for typed in order) > 1:
        names = f"{option.opts[0]} and {option.secondary_opts[0]}"
        raise InputError(f"{names} exclude each other; give one of them, once")


def check_empty(option: TyperOption, value: Any) -> None:
    """Raises InputError if an option is empty; its value is as typed, several in a sequence, and None for none."""
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, str) and not part.strip() for part in parts):
        advice = "" if option.required else ", or leave it out"
        raise InputError(f"{option.opts[0]} is empty; give it a value{advice}")
