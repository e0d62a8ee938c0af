"""What every command refuses before it runs: flags that contradict each other, and empty values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperOption

from ltd.errors import InputError


class CheckedCommand(TyperCommand):
    """A command whose options are looked at as they were typed.

    An empty path would otherwise be the current folder, and of two contradicting flags the last would count.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as usual, after the checks; a usage error without a context gets this one, which names the command.

        Raises:
            InputError: an option is empty, or one of two flags was given beside the other.
        """
        try:
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for option in self.get_params(ctx):
                if isinstance(option, TyperOption):
                    check_option(option, values.get(str(option.name)), order)
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", self) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  (a usage error of typer's parser)
            raise


def check_option(option: TyperOption, value: Any, order: Sequence[Any]) -> None:
    """Raises InputError if an option is empty, or a flag and its opposite were both given.

    Args:
        option: one of a command.
        value: as it was typed; None if it was not, and a sequence where there are several.
        order: the parameters in the order in which they were typed.
    """
    name = option.opts[0]
    if option.secondary_opts and sum(typed is option for typed in order) > 1:
        raise InputError(f"{name} and {option.secondary_opts[0]} exclude each other; give one of them, once")
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, str) and not part.strip() for part in parts):
        raise InputError(f"{name} is empty; give it a value{'' if option.required else ', or leave it out'}")
