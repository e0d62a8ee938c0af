"""What errors of other libraries say, as parts of our sentences."""

from __future__ import annotations


def reason_of(error: BaseException) -> str:
    """What is wrong, on one line and in words.

    That is the first line of the message; where it only announces another error ("…:"), what that one says; and words
    around what Python says of a key, a number or a type, which alone says nothing to somebody who wrote a file.
    """
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0].strip()
    if line.endswith(":"):
        if error.__cause__ is not None:
            return reason_of(error.__cause__)
        line = " ".join(text.split())
    if isinstance(error, KeyError) and len(error.args) == 1:
        (key,) = error.args
        if isinstance(key, str) and " " in key.strip():  # a sentence, which Python would put into quotes
            return key.strip().splitlines()[0]
        return f"{key!r} is missing, or is no name that is known there"
    if isinstance(error, ArithmeticError):
        return f"one of its numbers is 0 or too large ({line})"
    if isinstance(error, AttributeError | IndexError | TypeError):
        return f"one of its values is of the wrong kind ({line})"
    return line
