"""The one exception that says: what you gave cannot work."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that says what is wrong and what would be right. The command line prints it and exits
    with code 2; in Python it is an ordinary `ValueError`.
    """
